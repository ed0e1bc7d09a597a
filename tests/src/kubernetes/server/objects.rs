//! Direct access to the stored objects.

use std::sync::Arc;

use serde_json::Value;

use super::Shared;
use crate::kubernetes::kind::Kind;
use crate::kubernetes::status::Failure;
use crate::kubernetes::virt::Objects;

/// The objects of the in-process server.
#[derive(Debug, Clone)]
pub(super) struct Stored(pub(super) Arc<Shared>);

/// A field of an object's metadata.
fn metadata(object: &Value, field: &str) -> String {
    let value = object.get("metadata").and_then(|metadata| metadata.get(field));
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Objects for Stored {
    async fn read(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, Failure> {
        let object = self.0.lock().store.get(&(kind, namespace.to_owned(), name.to_owned()))?;
        Ok((*object).clone())
    }

    async fn create(&self, kind: Kind, object: Value) -> Result<Value, Failure> {
        let namespace = metadata(&object, "namespace");
        let object = self.0.lock().store.create(kind, &namespace, object)?;
        Ok((*object).clone())
    }

    async fn replace(&self, kind: Kind, object: Value) -> Result<Value, Failure> {
        let key = (kind, metadata(&object, "namespace"), metadata(&object, "name"));
        let object = self.0.lock().store.replace(&key, object)?;
        Ok((*object).clone())
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), Failure> {
        self.0.lock().store.delete(&(kind, namespace.to_owned(), name.to_owned())).map(drop)
    }
}
