//! Chat templates: jinja2 as transformers runs it, on minijinja.
//!
//! A template comes from a model's folder: it reaches neither files nor the environment, and loops, recursion,
//! strings and everything that is printed are bounded in time, memory and depth. Three things that minijinja does
//! not pay for are not, so a template that means harm can still hang or abort the process: `+` of a list that was
//! doubled dozens of times with `+`, `~` and `==` of lists that hold themselves twice as often, and lists nested tens
//! of thousands deep, whose release overflows the stack.
//!
//! What is not here: finding the template (`tokenize`), tokens.
//!
//! Rendered text equals `apply_chat_template(messages, tokenize=False)` of transformers 4.57; the exceptions are
//! listed at [`ChatTemplate`].

mod filters;
mod json;
mod methods;
mod python;
mod strftime;
mod syntax;

use super::row::Message;
use crate::base::{Error, Result};
use jiff::civil::Date;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;

/// minijinja's work units that any conversation may use; one pays for an instruction or 64 bytes of data.
///
/// The templates in use need a few hundred a message. This many run for well under a second and allocate at most
/// 256 MiB.
const FUEL: u64 = 4_000_000;
/// Work units on top for every byte of a conversation that is longer than [`LARGE`].
const FUEL_PER_BYTE: u64 = 16;
/// Conversations up to this many bytes have [`FUEL`].
const LARGE: usize = 64 * 1024;
/// How deep macros, loops and blocks may nest; a macro call counts more than one.
const RECURSION_LIMIT: usize = 300;
/// The name under which minijinja knows the template.
const NAME: &str = "chat_template";

/// A compiled chat template, with the special tokens and the date that it prints.
///
/// Where it differs from jinja2, by nature of minijinja:
///
/// - the clock of `strftime_now` stands at midnight of the frozen date;
/// - refused here: `%` on strings, `varargs` and `kwargs` of macros, the filters `striptags`, `wordwrap`, `urlencode`,
///   `filesizeformat`, `random`, `xmlattr`, `pprint`, integers beyond 128 bits, rendering that takes millions of steps;
/// - refused there: loops over none, `<` between kinds, a number or none `in` a string, unknown escapes;
/// - printed otherwise: lists with floats below 1e-4 or from 1e16 on behind `~`, a macro's `arguments`;
///   `x.items` without a call is the key, not the method, and `attr` finds keys.
///
/// None of it occurs in a chat template that we know of; each has a test that notices when minijinja changes.
///
/// # Source
/// `transformers/utils/chat_template_utils.py`: `_compile_jinja_template`, `render_jinja_template`.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    place: String,
    source: String,
    date: Date,
    uses_date: bool,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// `place` names the template in messages: a path, or `tokenizer_config.json: chat_template`. `special_tokens`
    /// are the variables that transformers passes, `bos_token` and its like, `additional_special_tokens` as an
    /// array. `date` is what `strftime_now` prints; `None` is today.
    ///
    /// # Errors
    /// [`Error::Template`] with the line where the syntax is wrong.
    pub fn compile(
        source: &str,
        place: impl Into<String>,
        special_tokens: &Map<String, serde_json::Value>,
        date: Option<Date>,
    ) -> Result<Self> {
        let place = place.into();
        let date = date.unwrap_or_else(|| jiff::ZonedDateTime::now().date());
        let mut env = Environment::new();
        let fail = |e: minijinja::Error| Error::Template { place: place.clone(), reason: describe(&e) };
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_debug(true);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(RECURSION_LIMIT);
        env.set_formatter(|out, state, value| python::str_into(out, value, state));
        env.set_unknown_method_callback(methods::call_method);
        filters::register(&mut env);
        env.remove_global("debug");
        // It walks a value without paying for it, and differs from Python's.
        env.remove_filter("pprint");
        env.add_function("joiner", minijinja_contrib::globals::joiner);
        env.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.to_vec()));
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(python::invalid(format!("the template refuses this conversation: {message}")))
        });
        env.add_function("strftime_now", move |format: &str| strftime::strftime(date, format));
        env.add_global("tools", ());
        env.add_global("documents", ());
        env.add_global("add_generation_prompt", false);
        for (name, token) in special_tokens {
            env.add_global(name.clone(), value_of(token));
        }
        env.add_template_owned(NAME, syntax::to_minijinja(source)).map_err(fail)?;
        let template = env.get_template(NAME).map_err(fail)?;
        let uses_date = template.undeclared_variables(false).contains("strftime_now");
        Ok(Self { env, place, source: source.to_owned(), date, uses_date })
    }

    /// Renders a whole conversation, without a generation prompt.
    ///
    /// # Errors
    /// [`Error::Template`] with the template's place and line: what it raises itself, an operation that Python
    /// refuses, a template that does not come to an end.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let values: Vec<Value> = messages.iter().map(message_value).collect();
        let context = Value::from_pairs([("messages", Value::from(values))]);
        let bytes: usize = messages.iter().map(message_bytes).sum();
        let rendered = if bytes <= LARGE {
            self.env.get_template(NAME).and_then(|t| t.render(context))
        } else {
            let mut env = self.env.clone();
            env.set_fuel(Some(FUEL.saturating_add((bytes as u64).saturating_mul(FUEL_PER_BYTE))));
            env.get_template(NAME).and_then(|t| t.render(context))
        };
        rendered.map_err(|e| Error::Template { place: self.place.clone(), reason: describe(&e) })
    }

    /// The template as it was read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it came from, as messages name it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The date that `strftime_now` prints.
    pub fn date(&self) -> Date {
        self.date
    }

    /// Whether the template may print the date: it names `strftime_now`.
    ///
    /// Decided from the source and not from a rendered example, because a branch that the example misses would make
    /// scores change with the calendar after all.
    pub fn uses_date(&self) -> bool {
        self.uses_date
    }
}

/// A message as the template sees it: `role`, `content`, then its other keys.
///
/// A `content` that is no string (null beside tool calls, a list of parts) is kept among the other keys and wins.
fn message_value(message: &Message) -> Value {
    let content = match message.extra.get("content") {
        Some(content) => value_of(content),
        None => Value::from(&message.content),
    };
    let own = [("role", Value::from(&message.role)), ("content", content)];
    let others = message.extra.iter().filter(|(key, _)| !matches!(key.as_str(), "role" | "content"));
    Value::from_pairs(own.into_iter().chain(others.map(|(key, value)| (key.as_str(), value_of(value)))))
}

fn value_of(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => n.as_f64().map_or_else(|| Value::from(()), Value::from),
        },
        Json::String(s) => Value::from(s),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), value_of(v)))),
    }
}

fn message_bytes(message: &Message) -> usize {
    fn json_bytes(json: &serde_json::Value) -> usize {
        use serde_json::Value as Json;
        8 + match json {
            Json::String(s) => s.len(),
            Json::Array(items) => items.iter().map(json_bytes).sum(),
            Json::Object(map) => map.iter().map(|(k, v)| k.len() + json_bytes(v)).sum(),
            _ => 0,
        }
    }
    let extra: usize = message.extra.iter().map(|(k, v)| k.len() + json_bytes(v)).sum();
    // Every message costs a turn of the template's loops, however short it is.
    64 + message.role.len() + message.content.len() + extra
}

/// One line: where, what, and what to make of it.
fn describe(error: &minijinja::Error) -> String {
    // An error inside a macro or a recursive loop is the source of the one at its call.
    let mut innermost = error;
    while let Some(cause) =
        std::error::Error::source(innermost).and_then(|e| e.downcast_ref::<minijinja::Error>())
    {
        innermost = cause;
    }
    let line = innermost.line().or(error.line()).map(|n| format!("line {n}: ")).unwrap_or_default();
    let what = match innermost.kind() {
        ErrorKind::OutOfFuel => "gave up: the template loops or builds text without end \
             (a conversation of its length needs far less work)"
            .into(),
        ErrorKind::UndefinedError => {
            let detail = innermost.detail().map(|d| format!(" ({d})")).unwrap_or_default();
            format!("uses an undefined value{detail}")
        }
        ErrorKind::InvalidOperation if innermost.detail().is_some() => {
            innermost.detail().unwrap_or_default().to_owned()
        }
        kind => match innermost.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    line + &what
}
