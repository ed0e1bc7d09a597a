//! VirtualMachines, reduced to the fields that matter: <https://kubevirt.io/api-reference/>.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// A VirtualMachine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "RawMachine")]
pub(crate) struct VirtualMachine {
    /// Name, namespace, UID and resource version.
    pub metadata: ObjectMeta,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value of the annotation `wakevirt.org/wake`.
    pub wake: Option<String>,
    /// `spec`.
    pub spec: Spec,
    /// `status`.
    pub status: Status,
}

/// `spec` of a VirtualMachine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    /// The run strategy.
    pub run_strategy: Option<String>,
    /// The older field instead of a run strategy.
    pub running: Option<bool>,
    /// The template of the VirtualMachineInstance.
    #[serde(deserialize_with = "or_default")]
    template: Template,
}

impl Spec {
    /// The MAC addresses of the interfaces that have a fixed one.
    pub fn macs(&self) -> impl Iterator<Item = &str> {
        self.template.spec.domain.devices.interfaces.iter().filter_map(|it| it.mac_address.as_deref())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Template {
    #[serde(deserialize_with = "or_default")]
    spec: TemplateSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TemplateSpec {
    #[serde(deserialize_with = "or_default")]
    domain: Domain,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Domain {
    #[serde(deserialize_with = "or_default")]
    devices: Devices,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Devices {
    #[serde(deserialize_with = "or_default")]
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Interface {
    mac_address: Option<String>,
}

/// `status` of a VirtualMachine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    /// The status that `kubectl get` shows.
    pub printable_status: Option<String>,
    /// Whether there is a VirtualMachineInstance.
    #[serde(deserialize_with = "or_default")]
    pub created: bool,
    /// The conditions.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// A condition of an object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    /// The type, such as `Paused`.
    #[serde(rename = "type")]
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// The reason, in one word.
    pub reason: Option<String>,
}

/// The metadata that matters. The complete metadata can be larger than everything else.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "wakevirt.org/wake")]
    wake: Option<String>,
}

impl RawMetadata {
    fn reduced(self) -> (ObjectMeta, Option<BTreeMap<String, String>>, Option<String>) {
        let Self { name, namespace, uid, resource_version, deletion_timestamp, labels, annotations } = self;
        let metadata = ObjectMeta {
            name,
            namespace,
            uid,
            resource_version,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        (metadata, labels, annotations.and_then(|it| it.wake))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMachine {
    #[serde(deserialize_with = "or_default")]
    metadata: RawMetadata,
    #[serde(deserialize_with = "or_default")]
    spec: Spec,
    #[serde(deserialize_with = "or_default")]
    status: Status,
}

impl From<RawMachine> for VirtualMachine {
    fn from(RawMachine { metadata, spec, status }: RawMachine) -> Self {
        let (metadata, labels, wake) = metadata.reduced();
        Self { metadata, labels: labels.unwrap_or_default(), wake, spec, status }
    }
}

/// A VirtualMachineInstance: a VirtualMachine that has been started.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "RawInstance")]
pub(crate) struct Instance {
    /// Name, namespace, UID and resource version.
    pub metadata: ObjectMeta,
    /// `status`.
    pub status: InstanceStatus,
}

/// `status` of a VirtualMachineInstance.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct InstanceStatus {
    /// The phase, such as `Scheduling` or `Running`.
    pub phase: Option<String>,
    /// The conditions.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

impl Instance {
    /// Whether the guest runs, paused or not.
    pub fn is_running(&self) -> bool {
        self.status.phase.as_deref() == Some("Running") && self.metadata.deletion_timestamp.is_none()
    }

    /// Whether the guest is paused.
    pub fn is_paused(&self) -> bool {
        self.status.conditions.iter().any(|it| it.kind == "Paused" && it.status == "True")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawInstance {
    #[serde(deserialize_with = "or_default")]
    metadata: RawMetadata,
    #[serde(deserialize_with = "or_default")]
    status: InstanceStatus,
}

impl From<RawInstance> for Instance {
    fn from(RawInstance { metadata, status }: RawInstance) -> Self {
        Self { metadata: metadata.reduced().0, status }
    }
}

/// Reads `null` as the default value. KubeVirt accepts `null` where the value is missing, and one object that cannot be
/// read would make a whole list unusable.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(input: D) -> Result<T, D::Error> {
    Option::deserialize(input).map(Option::unwrap_or_default)
}

/// Implements `Resource` for a type of KubeVirt.
macro_rules! resource {
    ($type:ty, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = k8s_openapi::NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                "kubevirt.io".into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(VirtualMachine, "VirtualMachine", "virtualmachines");
resource!(Instance, "VirtualMachineInstance", "virtualmachineinstances");
