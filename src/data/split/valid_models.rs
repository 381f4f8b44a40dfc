//! Which models are held out where the user names none.

use super::SplitConfig;
use super::catalog::Catalog;
use crate::base::rng;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Models held out where the user names none.
const DRAWN: usize = 4;

/// The models to hold out, and how they were chosen.
///
/// # Errors
/// [`Error::Usage`] where a model that was named answers nothing, or there are too few to draw from.
pub fn choose(config: &SplitConfig, catalog: &Catalog) -> Result<(BTreeSet<String>, String)> {
    let known: BTreeSet<&String> = catalog.models.iter().collect();
    if let Some(given) = &config.valid_models {
        let unknown: Vec<&str> =
            given.iter().filter(|model| !known.contains(model)).map(String::as_str).collect();
        if !unknown.is_empty() {
            return Err(Error::Usage(format!(
                "split: --valid-models names `{}`, expected models of the data{}",
                unknown.join(","),
                listed(&known)
            )));
        }
        return Ok((given.iter().cloned().collect(), "given".into()));
    }
    let answers = answers(config, catalog);
    if let Some(preset) = config.preset
        && let Some(chosen) = preset.valid_models(&answers)
    {
        return Ok(chosen);
    }
    draw(config, catalog, &answers)
}

/// What is known of a model before anything is planned.
pub struct Answers<'a> {
    pub model: &'a str,
    /// Prompts that it answers.
    pub prompts: u64,
    /// Whether any of its responses comes from the first table.
    pub in_first_table: bool,
}

/// Of every model that answers anything, in the order of their names.
fn answers<'a>(config: &SplitConfig, catalog: &'a Catalog) -> Vec<Answers<'a>> {
    let first = config.tables.iter().min().copied().unwrap_or_default();
    let mut found: Vec<Answers> =
        catalog.models.iter().map(|model| Answers { model, prompts: 0, in_first_table: false }).collect();
    let mut last_prompt = vec![usize::MAX; found.len()];
    for (prompt, row) in catalog.rows.iter().enumerate() {
        for answer in &row.answers {
            let model = answer.model as usize;
            found[model].in_first_table |= row.parts[answer.part as usize].table == first;
            if last_prompt[model] != prompt {
                last_prompt[model] = prompt;
                found[model].prompts += 1;
            }
        }
    }
    found.retain(|model| model.prompts > 0);
    found.sort_unstable_by_key(|model| model.model);
    found
}

/// Draws among those that answer nine prompts in ten where there are enough of them (so that a held-out row has all
/// four), else among all.
fn draw(config: &SplitConfig, catalog: &Catalog, answers: &[Answers]) -> Result<(BTreeSet<String>, String)> {
    let named: BTreeSet<&String> = catalog.models.iter().collect();
    if named.len() < DRAWN + 2 {
        return Err(Error::Usage(format!(
            "split: found {} named models{}, expected at least {} to hold out {DRAWN} of them: name fewer with \
             --valid-models",
            named.len(),
            listed(&named),
            DRAWN + 2
        )));
    }
    let prompts = catalog.rows.len() as u64;
    let frequent: Vec<&str> =
        answers.iter().filter(|m| m.prompts * 10 >= prompts * 9).map(|m| m.model).collect();
    let (mut candidates, whence) = if frequent.len() >= DRAWN {
        (frequent, "among the models that answer at least 90% of the rows")
    } else {
        // Where hardly any response can be used (a misspelt score field), the planning of rows says why.
        let names = match answers.len() {
            0..=DRAWN => named.into_iter().map(String::as_str).collect(),
            _ => answers.iter().map(|m| m.model).collect(),
        };
        (names, "among all models; none answers most rows, so held-out rows have fewer responses")
    };
    rng::shuffle(&mut rng::stream(config.seed, "split:valid-models", 0), &mut candidates);
    candidates.truncate(DRAWN);
    Ok((
        candidates.into_iter().map(str::to_owned).collect(),
        format!("drawn by seed {} {whence}", config.seed),
    ))
}

fn listed(models: &BTreeSet<&String>) -> String {
    let names: Vec<&str> = models.iter().map(|model| model.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}
