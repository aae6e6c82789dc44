//! The text form of a selector, as a scale subresource tells it: `app=chat,tier in (gold,iron),!canary`.
//!
//! Must hold: what is written reads back as the same; a requirement that is not understood makes the whole
//! selector useless, since without it more would be selected.

use std::{fmt, str::FromStr};

use super::{Requirement, Selector, SelectorError};

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Requirement::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::DoesNotExist(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let unreadable = |part: &str| SelectorError::Text { requirement: part.to_owned() };
        let requirements = parts(text).map(|part| requirement(part).ok_or_else(|| unreadable(part)));
        let requirements: Vec<_> = requirements.collect::<Result<_, _>>()?;
        if requirements.is_empty() { Err(SelectorError::Empty) } else { Ok(Self(requirements)) }
    }
}

/// The requirements: between commas, but for those between values in parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut within = false;
    let ends = move |letter: char| {
        within = letter == '(' || (within && letter != ')');
        letter == ',' && !within
    };
    text.split(ends).map(str::trim).filter(|part| !part.is_empty())
}

fn requirement(part: &str) -> Option<Requirement> {
    if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let (key, operator) = head.trim().split_once(char::is_whitespace)?;
        let values = values.split(',').map(value).collect::<Option<_>>()?;
        return match operator.trim() {
            "in" => Some(Requirement::In(self::key(key)?, values)),
            "notin" => Some(Requirement::NotIn(self::key(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, one)) = part.split_once("!=") {
        return Some(Requirement::NotIn(self::key(key)?, vec![value(one)?]));
    }
    if let Some((key, one)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(self::key(key)?, vec![value(one)?]));
    }
    match part.strip_prefix('!') {
        Some(key) => Some(Requirement::DoesNotExist(self::key(key)?)),
        None => Some(Requirement::Exists(key(part)?)),
    }
}

fn key(text: &str) -> Option<String> {
    value(text).filter(|key| !key.is_empty())
}

fn value(text: &str) -> Option<String> {
    let text = text.trim();
    let usual = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    text.chars().all(usual).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Labels;

    #[test]
    fn what_a_scale_tells_is_understood_and_reads_back() {
        for (text, written) in [
            ("app=chat", "app=chat"),
            ("app==chat, tier in (gold,iron)", "app=chat,tier in (gold,iron)"),
            ("tier notin (a, b),!canary,example.com/gpu", "tier notin (a,b),!canary,example.com/gpu"),
            ("stage!=test,empty=", "stage!=test,empty="),
            ("tier in (gold)", "tier=gold"),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), written);
            assert_eq!(written.parse(), Ok(selector));
        }
    }

    #[test]
    fn a_requirement_that_is_not_understood_makes_the_whole_useless() {
        for text in ["cores>4", "app=chat,=x", "tier in gold", "tier near (gold)", "a b", "!", "app=a=b", "x in ("] {
            assert!(matches!(text.parse::<Selector>(), Err(SelectorError::Text { .. })), "{text}");
        }
        assert_eq!(" , ".parse::<Selector>(), Err(SelectorError::Empty));
    }

    #[test]
    fn text_selects_as_kubernetes_does() {
        let labels: Labels = [("app", "chat"), ("tier", "gold")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expected) in
            [("app=chat,tier in (gold,iron)", true), ("app=chat,!tier", false), ("zone!=a,app", true)]
        {
            assert_eq!(text.parse::<Selector>().unwrap().matches(&labels), expected, "{text}");
        }
    }
}
