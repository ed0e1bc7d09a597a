//! Translates `spec.agent` of the WolConfigs into a patch of the DaemonSet.

use serde_json::{Map, Value, json};
use wakevirt_service::logs::quoted;

use super::error::ImportError;
use super::names;
use super::wolconfig::{Agent, WolConfig};

/// The containers of the pod.
const CONTAINERS: [&str; 4] = ["bus", "capture", "actor", "metrics"];

/// The differences from the base's DaemonSet.
#[derive(Debug, Default)]
pub struct Patch {
    /// Fields of `spec`.
    pub daemon_set: Map<String, Value>,
    /// Fields of `spec.template.spec`, without the containers.
    pub pod: Map<String, Value>,
    /// The fields of each container, by its name.
    pub containers: Vec<(&'static str, Map<String, Value>)>,
}

impl Patch {
    /// Whether the DaemonSet does not change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.daemon_set.is_empty() && self.pod.is_empty() && self.containers.is_empty()
    }
}

/// Combines the agents of all WolConfigs. Adds notes on what cannot be expressed.
///
/// # Errors
/// If a field is invalid.
pub fn patch(configs: &[WolConfig], notes: &mut Vec<String>) -> Result<Patch, ImportError> {
    for config in configs {
        check(config)
            .map_err(|problem| ImportError::Config { name: config.metadata.name.clone(), problem })?;
    }
    let agents: Vec<&Agent> = configs.iter().map(|config| &config.spec.agent).collect();
    let mut patch = Patch::default();
    patch.pod.insert("tolerations".to_owned(), tolerations(&agents));
    if let Some(selector) = common("nodeSelector", &agents, notes, |agent| json!(agent.node_selector)) {
        patch.pod.insert("nodeSelector".to_owned(), selector);
    }
    let class = common("priorityClassName", &agents, notes, |agent| json!(agent.priority_class_name));
    patch.pod.extend(class.map(|class| ("priorityClassName".to_owned(), class)));
    let strategy = common("updateStrategy", &agents, notes, |agent| json!(agent.update_strategy));
    patch.daemon_set.extend(strategy.map(|strategy| ("updateStrategy".to_owned(), strategy)));
    let resources = common("resources", &agents, notes, |agent| json!(agent.resources));
    // The default of both.
    let policy = common("imagePullPolicy", &agents, notes, |agent| match agent.image_pull_policy.as_str() {
        "" | "IfNotPresent" => Value::Null,
        policy => json!(policy),
    });
    for name in CONTAINERS {
        let mut fields = Map::new();
        fields.extend(policy.clone().map(|policy| ("imagePullPolicy".to_owned(), policy)));
        let own = resources.clone().filter(|_| name == "actor");
        fields.extend(own.map(|resources| ("resources".to_owned(), resources)));
        if !fields.is_empty() {
            patch.containers.push((name, fields));
        }
    }
    if resources.is_some() {
        notes.push(
            "agent.resources: the pod has four containers; these values apply to the actor, and the others keep theirs.".to_owned(),
        );
    }
    if agents.iter().any(|agent| !agent.image.is_empty()) {
        notes.push("agent.image: not carried over; set the image of wakevirt with `images`.".to_owned());
    }
    Ok(patch)
}

fn check(config: &WolConfig) -> Result<(), String> {
    let agent = &config.spec.agent;
    let class = &agent.priority_class_name;
    if !class.is_empty() {
        names::object(class).map_err(|problem| format!("agent.priorityClassName: {problem}"))?;
    }
    let policy = &agent.image_pull_policy;
    if !["", "Always", "IfNotPresent", "Never"].contains(&policy.as_str()) {
        return Err(format!("agent.imagePullPolicy: unknown value {}", quoted(policy)));
    }
    Ok(())
}

/// The tolerations of all agents. An agent without any tolerates all taints.
fn tolerations(agents: &[&Agent]) -> Value {
    if agents.iter().any(|agent| agent.tolerations.is_empty()) {
        let all = |effect: &str| json!({"effect": effect, "operator": "Exists"});
        return json!([all("NoSchedule"), all("NoExecute")]);
    }
    let mut all: Vec<&Value> = Vec::new();
    for toleration in agents.iter().flat_map(|agent| &agent.tolerations) {
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    json!(all)
}

/// The value that all agents have in common, unless it is empty.
fn common(
    field: &str,
    agents: &[&Agent],
    notes: &mut Vec<String>,
    get: impl Fn(&Agent) -> Value,
) -> Option<Value> {
    let (first, others) = agents.split_first()?;
    let value = get(first);
    if others.iter().any(|agent| get(agent) != value) {
        notes.push(format!(
            "agent.{field}: not carried over, because the WolConfigs have different values. kubevirt-wol had a DaemonSet for each; \
             wakevirt has one."
        ));
        return None;
    }
    let is_empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    Some(value).filter(|_| !is_empty)
}
