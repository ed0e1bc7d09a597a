//! The URIs of clusters.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use wakevirt_service::logs::quoted;

/// The maximum number of namespaces in a URI. Each of them is watched separately.
const MAX_NAMESPACES: usize = 64;

/// A cluster: `kubevirt://` for the one in which the actor runs, otherwise `kubevirt:///PATH` with the path of a
/// kubeconfig. The parameters `context=` and `namespace=` follow after `?`, separated by `&`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClusterUri {
    /// The kubeconfig (<https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>). `None`
    /// for the service account of a pod.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. `None` for its current context.
    pub context: Option<String>,
    /// The namespaces to watch. If the list is empty, all namespaces are watched.
    pub namespaces: Vec<String>,
}

impl FromStr for ClusterUri {
    type Err = String;

    fn from_str(uri: &str) -> Result<Self, String> {
        let invalid = |problem: String| {
            format!(
                "{} is not the URI of a cluster: {problem}; write kubevirt:// or kubevirt:///PATH/OF/KUBECONFIG, and \
                 add parameters such as ?namespace=NAME",
                quoted(uri)
            )
        };
        let rest = uri.strip_prefix("kubevirt://");
        let rest = rest.ok_or_else(|| invalid("it does not begin with kubevirt://".to_owned()))?;
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if !path.is_empty() && !path.starts_with('/') {
            return Err(invalid("it contains a host".to_owned()));
        }
        let kubeconfig = (!path.is_empty()).then(|| Path::new(path).to_owned());
        let mut parsed = Self { kubeconfig, ..Self::default() };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("context", context)) if parsed.context.is_none() && !context.is_empty() => {
                    parsed.context = Some(context.to_owned());
                }
                Some(("namespace", namespace)) if is_name(namespace) => {
                    if !parsed.namespaces.iter().any(|other| other == namespace) {
                        parsed.namespaces.push(namespace.to_owned());
                    }
                }
                _ => return Err(invalid(format!("the parameter {} is invalid", quoted(parameter)))),
            }
        }
        if parsed.context.is_some() && parsed.kubeconfig.is_none() {
            return Err(invalid("a context requires the path of a kubeconfig".to_owned()));
        }
        if parsed.namespaces.len() > MAX_NAMESPACES {
            return Err(invalid(format!("it has more than {MAX_NAMESPACES} namespaces")));
        }
        Ok(parsed)
    }
}

/// Whether a text can be the name of a Kubernetes object
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>). Such a name is also safe in a URL path.
pub(crate) fn is_name(text: &str) -> bool {
    let is_valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(is_valid) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_path_and_the_parameters() {
        let parse = |uri: &str| uri.parse::<ClusterUri>().unwrap();
        assert_eq!(parse("kubevirt://"), ClusterUri::default());
        let all = parse("kubevirt:///etc/kube/config?context=admin@lab&namespace=a&namespace=b&namespace=a");
        assert_eq!(all.kubeconfig.as_deref(), Some(Path::new("/etc/kube/config")));
        assert_eq!(
            (all.context.as_deref(), all.namespaces),
            (Some("admin@lab"), vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(parse("kubevirt://?namespace=a").namespaces, ["a"]);
    }

    #[test]
    fn rejects_what_it_does_not_know() {
        let many: String = (0..=MAX_NAMESPACES).map(|number| format!("&namespace=n{number}")).collect();
        for uri in [
            "qemu:///system",
            "kubevirt:",
            "kubevirt://host",
            "kubevirt://?context=x",
            "kubevirt:///a?namespace=",
            "kubevirt:///a?namespace=A/b",
            "kubevirt:///a?context=x&context=y",
            "kubevirt:///a?other=x",
            "kubevirt:///a?namespace",
            &format!("kubevirt://?{many}"),
        ] {
            let error = uri.parse::<ClusterUri>().unwrap_err();
            assert!(error.contains("write kubevirt://"), "{uri}: {error}");
        }
    }
}
