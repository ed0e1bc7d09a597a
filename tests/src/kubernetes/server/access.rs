//! Role-based access control, with the rules of manifests.

use serde_json::Value;

use crate::kubernetes::kind::qualified;
use crate::kubernetes::status::Failure;

/// The operation that a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The verb: `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The resource, with a subresource after a slash, such as `virtualmachines/start`.
    pub resource: String,
    /// The namespace. `None` for all namespaces, and for resources without one.
    pub namespace: Option<String>,
    /// The object's name. `None` for lists.
    pub name: Option<String>,
}

impl Access {
    /// The error for a user without permission, with Kubernetes's sentence.
    pub(super) fn forbidden(&self, user: &str) -> Failure {
        let Self { verb, group, resource, .. } = self;
        let plural = resource.split('/').next().unwrap_or_default();
        let object = qualified(group, plural);
        let name = self.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let scope = match &self.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let message = format!(
            "{object}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \
             \"{group}\" {scope}"
        );
        Failure::new(403, message)
    }
}

/// One rule of a role, for one service account.
#[derive(Debug, Clone)]
struct Grant {
    user: String,
    /// `None` in all namespaces.
    namespace: Option<String>,
    rule: Value,
}

/// The permissions of service accounts. An account without a role has none.
#[derive(Debug, Clone, Default)]
pub struct Rbac {
    grants: Vec<Grant>,
    removed: Vec<(String, String)>,
    all: bool,
}

impl Rbac {
    /// Reads the roles and bindings of a manifest. Other objects are ignored.
    ///
    /// # Panics
    /// If it is not YAML, or a binding names a role that is missing.
    #[must_use]
    pub fn from_yaml(manifest: &str) -> Self {
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("the manifest is YAML");
        let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let mut rbac = Self::default();
        for binding in &objects {
            let kind = text(binding, "/kind").unwrap_or_default();
            if !["RoleBinding", "ClusterRoleBinding"].contains(&kind.as_str()) {
                continue;
            }
            let namespace = text(binding, "/metadata/namespace").filter(|_| kind == "RoleBinding");
            let (role_kind, role_name) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let role = objects.iter().find(|role| {
                text(role, "/kind") == role_kind
                    && text(role, "/metadata/name") == role_name
                    && (role_kind.as_deref() == Some("ClusterRole")
                        || text(role, "/metadata/namespace") == namespace)
            });
            let role = role.unwrap_or_else(|| panic!("{role_kind:?} {role_name:?} is missing"));
            for subject in array(binding, "subjects") {
                let user = format!(
                    "system:serviceaccount:{}:{}",
                    text(subject, "/namespace").unwrap_or_default(),
                    text(subject, "/name").unwrap_or_default()
                );
                for rule in array(role, "rules") {
                    rbac.grants.push(Grant {
                        user: user.clone(),
                        namespace: namespace.clone(),
                        rule: rule.clone(),
                    });
                }
            }
        }
        rbac
    }

    /// Allows every request of every user.
    pub fn allow_all(&mut self) {
        self.all = true;
    }

    /// Removes a verb on a resource, such as `virtualmachines/start`, from all roles.
    pub fn remove(&mut self, verb: &str, resource: &str) {
        self.removed.push((verb.to_owned(), resource.to_owned()));
    }

    /// Undoes every [`Self::remove`].
    pub fn restore(&mut self) {
        self.removed.clear();
    }

    pub(super) fn allows(&self, user: &str, access: &Access) -> bool {
        if self.removed.iter().any(|(verb, resource)| *verb == access.verb && *resource == access.resource) {
            return false;
        }
        if self.all {
            return true;
        }
        self.grants.iter().any(|grant| {
            let lists = |key: &str, wanted: &str| {
                array(&grant.rule, key).iter().any(|entry| entry == wanted || entry == "*")
            };
            let names = array(&grant.rule, "resourceNames");
            let named =
                access.name.as_ref().is_some_and(|name| names.iter().any(|entry| entry == name.as_str()));
            grant.user == user
                && (grant.namespace.is_none() || grant.namespace == access.namespace)
                && (names.is_empty() || named)
                && lists("verbs", &access.verb)
                && lists("apiGroups", &access.group)
                && lists("resources", &access.resource)
        })
    }
}

fn array<'value>(value: &'value Value, key: &str) -> &'value [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
kind: Role
metadata: {name: r, namespace: ns}
rules:
  - {apiGroups: [g], resources: [things], verbs: [get], resourceNames: [a]}
---
kind: RoleBinding
metadata: {name: b, namespace: ns}
roleRef: {kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: s, namespace: m}]
";

    #[test]
    fn a_role_allows_what_it_lists() {
        let mut rbac = Rbac::from_yaml(MANIFEST);
        let access = |verb: &str, namespace: Option<&str>, name: Option<&str>| Access {
            verb: verb.to_owned(),
            group: "g".to_owned(),
            resource: "things".to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        let user = "system:serviceaccount:m:s";
        assert!(rbac.allows(user, &access("get", Some("ns"), Some("a"))));
        for denied in [
            access("get", Some("ns"), Some("b")),
            access("get", Some("ns"), None),
            access("get", None, Some("a")),
            access("list", Some("ns"), Some("a")),
        ] {
            assert!(!rbac.allows(user, &denied), "{denied:?}");
        }
        assert!(!rbac.allows("system:serviceaccount:m:t", &access("get", Some("ns"), Some("a"))));
        rbac.remove("get", "things");
        assert!(!rbac.allows(user, &access("get", Some("ns"), Some("a"))));
        let denied = access("get", Some("ns"), Some("a")).forbidden(user);
        assert_eq!(
            denied.message,
            "things.g \"a\" is forbidden: User \"system:serviceaccount:m:s\" cannot get resource \"things\" in API \
             group \"g\" in the namespace \"ns\""
        );
    }
}
