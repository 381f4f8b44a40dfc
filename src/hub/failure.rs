//! What the hub's refusals mean and what to do about them.

use super::HubFailure;
use crate::base::Error;
use hf_hub::HFError;
use std::collections::BTreeSet;
use std::path::Path;

/// What was asked for, for messages.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub id: &'a str,
    pub revision: &'a str,
    pub dataset: bool,
    pub endpoint: &'a str,
    pub has_token: bool,
}

impl Subject<'_> {
    fn what(&self) -> String {
        let kind = if self.dataset { "dataset " } else { "" };
        match self.revision {
            super::DEFAULT_REVISION => format!("{kind}{}", self.id),
            revision => format!("{kind}{} at revision {revision}", self.id),
        }
    }

    fn page(&self) -> String {
        format!("{}/{}{}", self.endpoint, if self.dataset { "datasets/" } else { "" }, self.id)
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Hub { what: self.what(), reason: reason.into() }
    }
}

/// A failure of the hf-hub crate.
pub(super) fn from_hf(subject: &Subject, error: HFError) -> HubFailure {
    let context = match &error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RateLimited { context, .. } => Some(context),
        HFError::RepoNotFound { context, .. }
        | HFError::RevisionNotFound { context, .. }
        | HFError::EntryNotFound { context, .. } => context.as_ref(),
        _ => None,
    };
    if let Some(context) = context {
        return from_status(subject, context.status.as_u16(), context.error_code.as_deref());
    }
    match error {
        HFError::Request { source, .. } => from_transport(subject, &source),
        other => subject.error(other.to_string()).into(),
    }
}

/// A status that is no success. `code` is the hub's `X-Error-Code`, which tells apart what 401 and 404 do not.
pub(super) fn from_status(subject: &Subject, status: u16, code: Option<&str>) -> HubFailure {
    let page = subject.page();
    let kind = if subject.dataset { "dataset" } else { "model" };
    let reason = match (status, code) {
        (401 | 403, Some("GatedRepo")) if subject.has_token => {
            format!(
                "access is gated: accept the licence at {page} with the account of your HF_TOKEN ({status})"
            )
        }
        (401 | 403, Some("GatedRepo")) => {
            format!("access is gated: accept the licence at {page}, then set HF_TOKEN ({status})")
        }
        (401, _) if subject.has_token => format!(
            "HF_TOKEN was refused, or the {kind} does not exist: check the spelling and that the token is valid \
             and may read {page} (401)"
        ),
        (401, _) => format!(
            "not visible without a token: check the spelling; if it is private or gated, accept the licence at \
             {page} and set HF_TOKEN (401)"
        ),
        (403, _) => format!(
            "access refused: accept the licence at {page} and set HF_TOKEN to a token that may read it (403)"
        ),
        (404, Some("RevisionNotFound")) => format!("the {kind} has no revision {:?} (404)", subject.revision),
        (404, Some("EntryNotFound")) => format!("the {kind} has no such file; see {page}/tree/main (404)"),
        (404, _) if subject.dataset => {
            format!("the hub has no such dataset or revision; looked at {page} (404)")
        }
        (404, _) => format!(
            "there is no such folder, and the hub has no such model or revision; looked at {page} (404)"
        ),
        (429, _) => {
            "too many requests: wait a few minutes, or set HF_TOKEN for a higher limit (429)".to_owned()
        }
        (500..=599, _) => format!("{} is failing at the moment ({status}); try again", subject.endpoint),
        _ => format!("{page} answered with status {status}"),
    };
    HubFailure { error: subject.error(reason), unreachable: status >= 500 }
}

/// No answer at all.
pub(super) fn from_transport(subject: &Subject, error: &reqwest::Error) -> HubFailure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "no answer in time from",
        (false, true) => "cannot reach",
        (false, false) => "the connection broke to",
    };
    HubFailure {
        error: subject.error(format!(
            "{what} {} ({cause}): check the network or HF_ENDPOINT; with HF_HUB_OFFLINE=1 only the cache is used",
            subject.endpoint
        )),
        unreachable: true,
    }
}

/// An answer that breaks the hub's protocol.
pub(super) fn malformed(subject: &Subject, what: &str) -> Error {
    subject.error(format!("{} does not answer as a hub does: {what}", subject.endpoint))
}

/// The repository lacks a file that is needed.
pub(super) fn no_such_file(subject: &Subject, file: &str) -> Error {
    subject.error(format!(
        "found no {file} in the repository; see {}/tree/{}",
        subject.page(),
        subject.revision
    ))
}

/// The repository has weights in other formats only, or none.
pub(super) fn no_safetensors(subject: &Subject, files: &BTreeSet<String>) -> Error {
    let other =
        files.iter().find(|file| [".bin", ".pth", ".pt", ".gguf"].iter().any(|end| file.ends_with(end)));
    let found = other.map_or("no weights".to_owned(), |file| format!("only {file}"));
    subject
        .error(format!("found {found}, expected model.safetensors or its index; only safetensors are read"))
}

/// The cache must do and does not have it.
pub(super) fn not_cached(subject: &Subject, file: &str, cache: &Path) -> Error {
    subject.error(format!(
        "offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set) and {file} is not in the cache {}: run once with \
         the network, or give a folder",
        cache.display()
    ))
}
