//! Where the hub is, who asks, and where files go: the environment variables of `huggingface_hub`, read once.

use crate::base::{Error, Result};
use std::fmt;
use std::path::PathBuf;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// What the environment resolves to.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Base URL without a trailing slash.
    pub endpoint: String,
    /// Sent to the endpoint only, never to a host that it redirects to.
    pub token: Option<String>,
    /// The cache folder (`models--OWNER--NAME` and so on are below it).
    pub cache: PathBuf,
    /// Use the cache and nothing else.
    pub offline: bool,
}

impl fmt::Debug for HubSettings {
    // A token must not reach a log.
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// `HF_ENDPOINT`; `HF_TOKEN`, `HF_TOKEN_PATH` or the stored login (unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`);
    /// `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an endpoint that is no URL, a token that cannot be sent, or no place for a cache.
    pub fn from_env() -> Result<HubSettings> {
        HubSettings::from_variables(|name| std::env::var(name).ok())
    }

    /// [`HubSettings::from_env`] with the variables given; an empty one counts as unset.
    ///
    /// # Errors
    /// As [`HubSettings::from_env`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<HubSettings> {
        let variable = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let is_true = |name: &str| {
            variable(name)
                .is_some_and(|v| ["1", "on", "yes", "true"].iter().any(|yes| v.eq_ignore_ascii_case(yes)))
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let valid = reqwest::Url::parse(&endpoint)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        if !valid {
            return Err(Error::Usage(format!(
                "HF_ENDPOINT: found {endpoint:?}, expected a URL such as {DEFAULT_ENDPOINT}"
            )));
        }
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| {
                variable("HOME")
                    .or_else(|| variable("USERPROFILE"))
                    .map(|home| PathBuf::from(home).join(".cache"))
            });
            cache.map(|cache| cache.join("huggingface"))
        });
        let cache = variable("HF_HUB_CACHE")
            .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| {
                Error::Usage("no place for the hub's cache: set HF_HOME (HOME is not set either)".into())
            })?;
        let stored = || {
            let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")))?;
            let token = std::fs::read_to_string(path).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let token = match is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => variable("HF_TOKEN").or_else(stored),
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::Usage(
                "HF_TOKEN: found a token with spaces or other characters that cannot be sent".into(),
            ));
        }
        let offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
        Ok(HubSettings { endpoint, token, cache, offline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings> {
        HubSettings::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_those_of_huggingface_hub() {
        let found = settings(&[("HOME", "/nowhere")]).unwrap();
        assert_eq!(found.endpoint, "https://huggingface.co");
        assert_eq!(found.cache, PathBuf::from("/nowhere/.cache/huggingface/hub"));
        assert_eq!((found.token, found.offline), (None, false));
    }

    #[test]
    fn the_nearer_variable_wins() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        let all = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&all), PathBuf::from("/c"));
        assert_eq!(cache(&all[..3]), PathBuf::from("/hf/hub"));
        assert_eq!(cache(&all[..2]), PathBuf::from("/x/huggingface/hub"));
    }

    #[test]
    fn a_token_comes_from_the_variable_or_the_login() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            let mut all = vec![("HF_HOME", home)];
            all.extend(variables);
            settings(&all).unwrap().token
        };
        assert_eq!(token(&[]).as_deref(), Some("hf_stored"));
        assert_eq!(token(&[("HF_TOKEN", " hf_given ")]).as_deref(), Some("hf_given"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("hf_stored"));
        assert_eq!(token(&[("HF_TOKEN", "hf_given"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }

    #[test]
    fn wrong_variables_are_named() {
        for (name, value) in [("HF_ENDPOINT", "huggingface"), ("HF_ENDPOINT", "ftp://x"), ("HF_TOKEN", "a b")]
        {
            let message = settings(&[("HOME", "/h"), (name, value)]).unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
        assert!(settings(&[]).unwrap_err().to_string().contains("set HF_HOME"));
    }

    #[test]
    fn a_token_is_never_printed() {
        let found = settings(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn offline_is_a_flag() {
        for (value, offline) in [("1", true), ("TRUE", true), ("0", false), ("", false)] {
            assert_eq!(settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline);
        }
    }
}
