//! The WolConfig of kubevirt-wol.
//!
//! Source of the fields and of their defaults: `api/v1beta1/wolconfig_types.go` of
//! <https://github.com/gpillon/kubevirt-wol>, commit 7325b48 (October 2025).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::ImportError;
use super::names;

/// The maximum size of the input, in bytes.
pub const MAX_INPUT: usize = 4 << 20;
/// The maximum number of WolConfigs.
const MAX_CONFIGS: usize = 64;
/// The API of the WolConfig.
const API_VERSION: &str = "wol.pillon.org/v1beta1";

/// The fields that this program does not know.
pub type Unknown = BTreeMap<String, Value>;

/// A WolConfig.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct WolConfig {
    /// Its metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it configures.
    #[serde(default)]
    pub spec: Spec,
}

/// The metadata of an object.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    /// The name of the object.
    #[serde(default)]
    pub name: String,
}

/// `spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// How virtual machines are selected.
    pub discovery_mode: Mode,
    /// The names of namespaces. An empty list selects all namespaces.
    pub namespace_selectors: Vec<String>,
    /// Which virtual machines [`Mode::LabelSelector`] selects.
    pub vm_selector: Option<LabelSelector>,
    /// Which addresses [`Mode::Explicit`] selects.
    pub explicit_mappings: Vec<Mapping>,
    /// UDP ports. An empty list means port 9.
    pub wol_ports: Vec<u16>,
    /// How long kubevirt-wol caches the virtual machines, in seconds.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Option<u64>,
    /// The DaemonSet.
    pub agent: Agent,
    /// Other fields.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `spec.discoveryMode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Mode {
    /// All virtual machines of the namespaces.
    #[default]
    #[serde(alias = "")]
    All,
    /// Those with certain labels.
    LabelSelector,
    /// Those in a list.
    Explicit,
}

/// A label selector of Kubernetes: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with their values.
    pub match_labels: BTreeMap<String, String>,
    /// Other conditions.
    pub match_expressions: Vec<Expression>,
    /// Other fields.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A condition of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// The relation.
    pub operator: Operator,
    /// The values for [`Operator::In`] and [`Operator::NotIn`].
    #[serde(default)]
    pub values: Vec<String>,
}

/// The relation between a label and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is absent.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// An address of a virtual machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// The MAC address.
    pub mac_address: String,
    /// The name of the virtual machine.
    pub vm_name: String,
    /// The namespace of the virtual machine.
    pub namespace: String,
    /// Other fields.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `spec.agent`. What Kubernetes defines is passed on without a check.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// The labels of the nodes.
    pub node_selector: BTreeMap<String, String>,
    /// The tolerated taints.
    pub tolerations: Vec<Value>,
    /// Requests and limits of the container.
    pub resources: BTreeMap<String, Value>,
    /// The image.
    pub image: String,
    /// When the image is pulled.
    pub image_pull_policy: String,
    /// How pods are replaced.
    pub update_strategy: Option<Value>,
    /// The priority class of the pods.
    pub priority_class_name: String,
    /// Other fields.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Reads a WolConfig, or a list of them, from the JSON that kubectl(1) prints.
///
/// # Errors
/// If the input is too large, or is something else.
pub fn parse(input: &[u8]) -> Result<Vec<WolConfig>, ImportError> {
    if input.len() > MAX_INPUT {
        return Err(ImportError::TooLarge { max: MAX_INPUT });
    }
    let object: Value = serde_json::from_slice(input).map_err(ImportError::NotJson)?;
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let items = match (kind, object.get("items")) {
        ("List" | "WolConfigList", Some(Value::Array(items))) => items.clone(),
        _ => vec![object],
    };
    if items.len() > MAX_CONFIGS {
        return Err(ImportError::TooMany { what: "WolConfigs", max: MAX_CONFIGS });
    }
    if items.is_empty() {
        return Err(ImportError::Empty);
    }
    items.into_iter().map(config).collect()
}

fn config(object: Value) -> Result<WolConfig, ImportError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != API_VERSION || kind != "WolConfig" {
        return Err(ImportError::Kind { version, kind });
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let checked = names::object(&name).map(drop);
    checked
        .and_then(|()| serde_json::from_value(object).map_err(|error| error.to_string()))
        .map_err(|problem| ImportError::Config { name, problem })
}
