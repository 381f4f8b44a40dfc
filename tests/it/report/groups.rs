//! Runs that differ in their seed only: groups on the page, in Markdown and in pictures.

use super::*;

impl World {
    /// A run of three steps with this seed and rate; `size` scales what it measures.
    fn seed(&self, name: &str, seed: u64, lr: f64, size: f64) -> PathBuf {
        let mut lines = steps(3);
        for line in &mut lines {
            line["head_norm"] = json!(size * line["step"].as_f64().unwrap());
            line["hidden_norm_var"] = line["head_norm"].clone();
            line["reward_std"] = json!(size);
        }
        lines.extend([evaluation(3, "in-domain", 0.9), evaluation(3, "mutual-disjoint", 0.5 + 0.1 * size)]);
        lines.extend((size > 1.5).then(
            || json!({"kind": "alarm", "step": 2, "rule": "norm-growth", "message": format!("{name} grows")}),
        ));
        let folder = self.run(name, &lines);
        let config = format!("[optim]\nlr = {lr:?}\n[train]\nseed = {seed}\n");
        fs::write(folder.join("config.toml"), config).unwrap();
        folder
    }

    /// Two groups, `a` of three seeds and `b` of two.
    fn groups(&self) -> [&'static str; 5] {
        self.seed("a-0", 0, 1e-3, 1.0);
        self.seed("a-1", 1, 1e-3, 2.0);
        self.seed("a-2", 2, 1e-3, 3.0);
        self.seed("b-0", 0, 1e-2, 0.5);
        self.seed("b-1", 1, 1e-2, 1.0);
        ["a-0", "a-1", "a-2", "b-0", "b-1"]
    }
}

/// The figure of a title.
fn figure_of<'p>(page: &'p str, title: &str) -> &'p str {
    let start = page.find(&format!("<h3>{title}</h3>")).unwrap_or_else(|| panic!("no figure {title}"));
    &page[start..start + page[start..].find("</figure>").unwrap()]
}

/// The cells of a table's row that begins with `first`.
fn row_of(html: &str, first: &str) -> Vec<String> {
    let row = html.split("<tr>").find(|row| row.contains(&format!(">{first}</th>"))).unwrap();
    let cells = row.split("<td").skip(1).map(|cell| &cell[cell.find('>').unwrap() + 1..]);
    cells.map(|cell| cell.split("</td>").next().unwrap().to_owned()).collect()
}

/// Checks that a text is XML as far as a reader would stumble: tags that match, attributes in quotes that are there
/// once, no stray `<` or `&`, nothing after the root.
#[track_caller]
fn assert_is_xml(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.trim();
    assert!(rest.starts_with("<svg "), "{}", &rest[..40.min(rest.len())]);
    while let Some(start) = rest.find('<') {
        let (between, tag) = rest.split_at(start);
        for entity in between.split('&').skip(1) {
            let end = entity.find(';').unwrap_or_else(|| panic!("a stray & before {entity:.20}"));
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&&entity[..end]), "{entity:.20}");
        }
        let end = tag.find('>').expect("an open tag");
        let inner = &tag[1..end];
        rest = &tag[end + 1..];
        if let Some(name) = inner.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else {
            let (name, attributes) = inner.split_once([' ', '/']).unwrap_or((inner, ""));
            let quotes = attributes.split('"').collect::<Vec<_>>();
            assert_eq!(quotes.len() % 2, 1, "{inner}");
            let mut names: Vec<&str> = quotes.iter().step_by(2).map(|name| name.trim()).collect();
            let last = names.pop().unwrap();
            assert!(last.is_empty() || last == "/", "{inner}");
            assert!(names.iter().all(|name| name.ends_with('=') && name.len() > 1), "{inner}");
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{inner}");
            if !inner.ends_with('/') {
                open.push(name);
            }
        }
        assert!(!open.is_empty() || rest.is_empty(), "something after the root: {rest:.40}");
    }
    assert!(open.is_empty(), "{open:?}");
    let forbidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{fffe}' | '\u{ffff}');
    assert!(!text.contains(forbidden));
}

#[test]
fn seeds_become_a_median_a_band_and_means() {
    let world = World::new();
    let page = world.page(&world.groups());
    assert_is_sound(&page);
    for needle in [
        "<strong>a</strong> <span class=\"status\">3 seeds, 3 steps, not finished",
        // Last windows are of one step: 3, 6 and 9 times what the first is.
        "from 2.00 (1.00–3.00) to 6.00 (3.00–9.00), 3.00 times",
        "Accuracy in-domain minus mutual-disjoint: 0.200 (0.100–0.300), above 0 in 3 of 3 seeds.",
        "Alarms: norm-growth in 2 of 3 seeds.",
        "No alarm in any seed.",
        // 2.25 is the mean of 1.5 and 3.
        "smallest in b, 2.25 (1.50–3.00), and largest in a, 6.00 (3.00–9.00), 2.67 times as much. Their seeds overlap.",
        "a: config.toml of a-0; train.seed is 0, 1, 2 in turn",
    ] {
        assert!(page.contains(needle), "{needle}");
    }
    let head = figure_of(&page, "Norm of the head");
    assert_eq!(row_of(head, "2"), ["4.00", "2.00", "6.00", "1.50", "1.00", "2.00"], "median, least, largest");
    assert_eq!(head.matches("<path class=\"curve").count(), 2);
    assert_eq!(
        head.matches("<path class=\"band b0 c0").count() + head.matches("<path class=\"band b0 c1").count(),
        2
    );
    assert!(!head.contains("class=\"raw"));
    let accuracy = figure_of(&page, "Accuracy");
    assert!(accuracy.contains("0.700 (0.600–0.800)"), "{accuracy}");
    assert_eq!(accuracy.matches("<circle class=\"seed c0 d0\"").count(), 2 * 3, "a dot a seed and set");
    assert_eq!(accuracy.matches("<circle class=\"seed c1 d1\"").count(), 2 * 2);
    assert!(accuracy.contains("mean over seeds, a dot a seed") && !accuracy.contains("95% interval"));
    assert_eq!(row_of(&page, "alarms"), ["in 2 of 3 seeds", "in 0 of 2 seeds"]);
    assert_eq!(row_of(&page, "train.seed"), ["0, 1, 2", "0, 1"]);
    assert!(page.contains("a-1 grows"), "alarms are still told by run");
}

#[test]
fn a_run_alone_keeps_its_interval_among_groups() {
    let world = World::new();
    world.groups();
    let page = world.page(&["a-0", "a-1", "b-0"]);
    assert_is_sound(&page);
    let accuracy = figure_of(&page, "Accuracy");
    assert!(
        accuracy.contains("0.650 (0.600–0.700)") && accuracy.contains("0.550 [0.500, 0.600]"),
        "{accuracy}"
    );
    assert!(accuracy.contains("of one seed its 95% interval"));
    assert!(page.contains("<strong>b-0</strong>"));
}

#[test]
fn runs_stay_by_themselves_where_asked_or_where_more_differs() {
    let world = World::new();
    let runs = world.groups();
    let page = world.page(&[&runs[..], &["--no-groups"]].concat());
    assert_is_sound(&page);
    assert!(page.contains("<h1>5 runs</h1>") && page.contains("0.900 [0.850, 0.950]"));
    for word in ["3 seeds", "(0.600–", "class=\"seed"] {
        let markup = page.split("</style>").nth(1).unwrap();
        assert!(!markup.contains(word), "{word}");
    }
    // The same seed, and another rate.
    let apart = world.page(&["a-0", "b-0"]);
    assert_eq!(apart, world.page(&["a-0", "b-0", "--no-groups"]), "nothing changes without several seeds");
    fs::remove_file(world.path("a-1/config.toml")).unwrap();
    let page = world.page(&["a-0", "a-1", "a-2"]);
    assert!(page.contains("<strong>a</strong>") && page.contains("<strong>a-1</strong>"));
}

#[test]
fn hostile_names_are_text_in_every_output() {
    let world = World::new();
    let hostile = "a\"><script>alert(1)|<!--`&{{ 7*7 }}";
    for seed in 0..2 {
        world.seed(&format!("{hostile}-{seed}"), seed, 1e-3, 1.0 + seed as f64);
        world.seed(&format!("ünï🦀-s{seed}"), seed, 1e-2, 1.0);
    }
    let names = [format!("{hostile}-0"), format!("{hostile}-1"), "ünï🦀-s0".into(), "ünï🦀-s1".into()];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let page = world.page(&[&names[..], &["--markdown", "tables.md", "--svg", "plots"]].concat());
    assert_is_sound(&page);
    assert!(page.contains("<strong>ünï🦀</strong>"));
    assert!(page.contains("<strong>a&quot;&gt;&lt;script&gt;alert(1)|&lt;!--`&amp;{{ 7*7 }}</strong>"));
    let markdown = fs::read_to_string(world.path("tables.md")).unwrap();
    assert!(
        markdown.contains("| a\"&gt;&lt;script&gt;alert(1)\\|&lt;!--\\`&amp;{{ 7\\*7 }} | 2 |"),
        "{markdown}"
    );
    let mut count = 0;
    for file in fs::read_dir(world.path("plots")).unwrap() {
        let svg = fs::read_to_string(file.unwrap().path()).unwrap();
        assert_is_xml(&svg);
        assert!(!svg.contains("<script"));
        count += 1;
    }
    assert_eq!(count, page.matches("<figure>").count(), "a file a plot");
}

#[test]
fn markdown_has_the_tables_of_a_document() {
    let world = World::new();
    let runs = world.groups();
    let output = world.report(&[&runs[..], &["--markdown", "-"]].concat());
    assert!(output.status.success());
    assert!(!world.path("report.html").exists(), "--markdown alone makes no page");
    let markdown = String::from_utf8(output.stdout).unwrap();
    for line in [
        "| group | seeds | in-domain (accuracy) | mutual-disjoint (accuracy) |",
        "| a | 3 | 0.900 | 0.700 (0.600–0.800) |",
        "| b | 2 | 0.900 | 0.575 (0.550–0.600) |",
        "| figure | a | b |",
        "| hidden-norm variance, first | 2.00 (1.00–3.00) | 0.750 (0.500–1.00) |",
        "| hidden-norm variance, last | 6.00 (3.00–9.00) | 2.25 (1.50–3.00) |",
        "| growth | 3.00 | 3.00 |",
        "| reward std | 2.00 (1.00–3.00) | 0.750 (0.500–1.00) |",
        "| \\|W_p\\| | 6.00 (3.00–9.00) | 2.25 (1.50–3.00) |",
        "| train accuracy | 0.600 | 0.600 |",
        "| gap | 0.200 (0.100–0.300) | 0.325 (0.300–0.350) |",
        "| alarms: norm-growth | 2 of 3 | 0 of 2 |",
        "| optim.lr | 0.001 | 0.01 |",
        "| train.seed | 0, 1, 2 | 0, 1 |",
    ] {
        assert!(markdown.lines().any(|found| found == line), "{line} in\n{markdown}");
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    for table in markdown.split("\n\n").filter(|block| block.starts_with('|')) {
        assert!(table.lines().all(|line| columns(line) == columns(table.lines().next().unwrap())), "{table}");
    }
    assert_eq!(markdown.lines().filter(|line| line.starts_with("### ")).count(), 3);

    let mut lines = steps(3);
    lines.push(evaluation(3, "a", 0.75));
    lines.push(evaluation(3, "b", 0.75));
    lines[4]["metric"] = json!("kendall_tau");
    lines[4]["kendall_tau"] = json!(0.25);
    lines[4]["kendall_tau_ci95"] = json!([0.125, 0.5]);
    world.run("one", &lines);
    let output = world.report(&["one", "--markdown", "-"]);
    let markdown = String::from_utf8(output.stdout).unwrap();
    assert!(markdown.contains("| run | seeds | a (accuracy) | b (tau-b) |"), "{markdown}");
    assert!(
        markdown.contains(r"| one | 1 | 0.750 \[0.700, 0.800\] | 0.250 \[0.125, 0.500\] |"),
        "{markdown}"
    );
    assert!(markdown.contains("| alarms | none |") && !markdown.contains("gap |"), "{markdown}");

    assert!(world.refused(&["one", "--markdown", "-", "--out", "-"]).contains("--markdown -"));
}

#[test]
fn plots_are_files_for_both_themes() {
    let world = World::new();
    let runs = world.groups();
    let output = world.report(&[&runs[..], &["--svg", "docs/plots"]].concat());
    assert!(output.status.success() && !world.path("report.html").exists());
    for name in
        ["hidden-norm-variance", "accuracy", "over-optimization-gap", "mean-reward", "norm-of-the-head"]
    {
        let svg = fs::read_to_string(world.path(&format!("docs/plots/{name}.svg"))).unwrap();
        assert_is_xml(&svg);
        assert_eq!(svg.matches("http").count(), 1, "but for its name, no address");
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox="));
        assert!(svg.contains("(prefers-color-scheme: dark)") && svg.contains("<rect class=\"ground\""));
        assert!(svg.contains(">a</text>") || svg.contains(">a "), "the legend names the groups");
        for never in ["<script", "url(", "@import", "href", "NaN"] {
            assert!(!svg.contains(never), "{never} in {name}");
        }
    }
    // Sets whose names are the same as file names do not overwrite each other.
    let mut lines = steps(2);
    for split in ["ä", "ö"] {
        lines.extend([evaluation(1, split, 0.5), evaluation(2, split, 0.5)]);
    }
    world.run("sets", &lines);
    assert!(world.report(&["sets", "--svg", "sets-plots"]).status.success());
    for name in ["accuracy-on-in-training.svg", "accuracy-on-in-training-2.svg"] {
        assert!(world.path(&format!("sets-plots/{name}")).is_file(), "{name}");
    }
}

#[test]
fn thirty_long_runs_make_a_page_that_one_can_send() {
    let world = World::new();
    let mut names = Vec::new();
    for group in ["bt", "bsr", "hinge", "center", "direct", "normalized"] {
        for seed in 0..5u64 {
            let name = format!("{group}-{seed}");
            let mut noise = seed + 1;
            let lines: Vec<Value> = (1..=600)
                .map(|number| {
                    let mut line = step(number);
                    for value in line.as_object_mut().unwrap().values_mut() {
                        noise = noise
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        if let Some(float) = value.as_f64().filter(|_| value.is_f64()) {
                            *value = json!(float * (1.0 + 0.3 * (noise >> 40) as f64 / (1u64 << 24) as f64));
                        }
                    }
                    line
                })
                .collect();
            let folder = world.run(&name, &lines);
            let config = format!("[train]\nseed = {seed}\nnote = \"{group}\"\n");
            fs::write(folder.join("config.toml"), config).unwrap();
            names.push(name);
        }
    }
    let page = world.page(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_is_sound(&page);
    assert!(page.contains("<h1>6 groups, 30 runs</h1>"));
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
}
