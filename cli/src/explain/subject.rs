//! What is to be explained, as kubectl has people name it: `TYPE/NAME`, or `TYPE NAME`.

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A pod of this name.
    Pod(String),
    /// A node.
    Node(String),
    /// A PowerCappingPolicy.
    Policy(String),
    /// A PowerDomain.
    Domain(String),
}

/// Words that name nothing that can be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASubject {
    /// The type.
    #[error(
        "{0:?} is nothing that can be explained; write pod/NAME, node/NAME, powercappingpolicy/NAME (pcp) or powerdomain/NAME (pd)"
    )]
    Type(String),
    /// Too many or too few words.
    #[error("name one thing: TYPE/NAME or TYPE NAME, for example pod/chat-0")]
    Words,
}

impl Subject {
    /// What these words name; one without a type is a pod.
    ///
    /// # Errors
    /// When they name nothing of ours.
    pub fn parse(words: &[String]) -> Result<Self, NotASubject> {
        let (kind, name) = match words {
            [one] => one.split_once('/').unwrap_or(("pod", one)),
            [kind, name] if !kind.contains('/') && !name.contains('/') => (kind.as_str(), name.as_str()),
            _ => return Err(NotASubject::Words),
        };
        if name.is_empty() || name.contains('/') {
            return Err(NotASubject::Words);
        }
        let name = name.to_owned();
        match kind.to_lowercase().trim_end_matches(".powercapping.io") {
            "pod" | "pods" | "po" => Ok(Self::Pod(name)),
            "node" | "nodes" | "no" | "nodefrequencies" | "nf" => Ok(Self::Node(name)),
            "powercappingpolicy" | "powercappingpolicies" | "policy" | "pcp" => Ok(Self::Policy(name)),
            "powerdomain" | "powerdomains" | "domain" | "pd" => Ok(Self::Domain(name)),
            _ => Err(NotASubject::Type(kind.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_named_as_kubectl_has_it() {
        let parse = |words: &[&str]| Subject::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        for (words, expected) in [
            (vec!["pod/a"], Subject::Pod("a".into())),
            (vec!["a"], Subject::Pod("a".into())),
            (vec!["Pods", "a"], Subject::Pod("a".into())),
            (vec!["node/a"], Subject::Node("a".into())),
            (vec!["nf", "a"], Subject::Node("a".into())),
            (vec!["pcp/a"], Subject::Policy("a".into())),
            (vec!["powerdomains.powercapping.io/a"], Subject::Domain("a".into())),
        ] {
            assert_eq!(parse(&words), Ok(expected));
        }
        assert_eq!(parse(&["deployment/a"]), Err(NotASubject::Type("deployment".into())));
        for words in [vec!["pod/"], vec!["pod/a/b"], vec!["pod/a", "b"], vec![]] {
            assert_eq!(parse(&words), Err(NotASubject::Words), "{words:?}");
        }
    }
}
