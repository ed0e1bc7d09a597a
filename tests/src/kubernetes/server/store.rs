//! The objects, their revisions, and the changes that watches report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kubernetes::kind::Kind;
use crate::kubernetes::status::Failure;

/// The maximum number of changes that the server keeps for watches. Older revisions have expired.
const MAX_CHANGES: usize = 50_000;
/// The maximum number of objects.
const MAX_OBJECTS: usize = 50_000;

/// Identifies an object: kind, namespace (empty for a kind without namespaces) and name.
pub(super) type Key = (Kind, String, String);

/// One change of an object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    /// The object before the change. `None` if it was created.
    pub(super) before: Option<Arc<Value>>,
    /// The object after the change. `None` if it was deleted.
    pub(super) after: Option<Arc<Value>>,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    changes: VecDeque<Change>,
    revision: u64,
    /// Watches and continued lists from a lower revision get 410.
    oldest: u64,
    uids: u64,
    revisions: watch::Sender<u64>,
}

impl Store {
    pub(super) fn new() -> Self {
        // A real server has used some revisions before it serves requests.
        let revision = 100;
        Self {
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            revision,
            oldest: 1,
            uids: 0,
            revisions: watch::Sender::new(revision),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Notifies about each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.subscribe()
    }

    /// Makes all earlier revisions expire.
    pub(super) fn expire(&mut self) {
        self.revision += 1;
        self.oldest = self.revision;
        self.revisions.send_replace(self.revision);
    }

    /// Fails with 410 if the changes after this revision are no longer available.
    pub(super) fn available(&self, revision: u64) -> Result<(), Failure> {
        if revision < self.oldest { Err(Failure::expired(revision, self.oldest)) } else { Ok(()) }
    }

    /// The changes after this revision.
    pub(super) fn changes_after(&self, revision: u64) -> Vec<Change> {
        let start = self.changes.partition_point(|change| change.revision <= revision);
        self.changes.range(start..).cloned().collect()
    }

    /// All objects of a kind in a namespace, or in all namespaces, in the order of their keys.
    pub(super) fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = (kind, namespace.unwrap_or_default().to_owned(), String::new());
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.0 == kind && namespace.is_none_or(|namespace| namespace == key.1))
    }

    pub(super) fn get(&self, key: &Key) -> Result<Arc<Value>, Failure> {
        self.objects.get(key).cloned().ok_or_else(|| Failure::not_found(&key.0.qualified(), &key.2))
    }

    pub(super) fn create(
        &mut self,
        kind: Kind,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Failure> {
        let invalid = || Failure::new(422, "metadata is missing");
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or_else(invalid)?;
        self.uids += 1;
        if let (None, Some(prefix)) =
            (metadata.get("name"), metadata.get("generateName").and_then(Value::as_str))
        {
            let name = format!("{prefix}{:05x}", self.uids);
            metadata.insert("name".to_owned(), json!(name));
        }
        let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Failure::new(422, "metadata.name: Required value: name or generateName is required"));
        }
        let key = (kind, namespace.to_owned(), name);
        if self.objects.contains_key(&key) {
            return Err(Failure::exists(&kind.qualified(), &key.2));
        }
        if self.objects.len() >= MAX_OBJECTS {
            return Err(Failure::new(507, "the test's API server is full"));
        }
        metadata.insert("uid".to_owned(), json!(format!("5f0e7a10-0000-4000-8000-{:012x}", self.uids)));
        metadata.insert("creationTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
        if !namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        Ok(self.put(key, None, object))
    }

    /// Replaces an object. If the new one has a `resourceVersion`, it must be the current one.
    pub(super) fn replace(&mut self, key: &Key, mut object: Value) -> Result<Arc<Value>, Failure> {
        let before = self.get(key)?;
        let resource = key.0.qualified();
        let revision = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
        if revision(&object).is_some_and(|given| Some(given) != revision(&before)) {
            return Err(Failure::stale(&resource, &key.2));
        }
        for field in ["uid", "creationTimestamp", "name", "namespace"] {
            let old = before.get("metadata").and_then(|metadata| metadata.get(field)).cloned();
            if let (Some(old), Some(metadata)) =
                (old, object.get_mut("metadata").and_then(Value::as_object_mut))
            {
                metadata.insert(field.to_owned(), old);
            }
        }
        Ok(self.put(key.clone(), Some(before), object))
    }

    pub(super) fn delete(&mut self, key: &Key) -> Result<Arc<Value>, Failure> {
        let before = self.get(key)?;
        self.objects.remove(key);
        self.add(key.clone(), Some(before.clone()), None);
        Ok(before)
    }

    fn put(&mut self, key: Key, before: Option<Arc<Value>>, mut object: Value) -> Arc<Value> {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(key.0.api_version()));
            fields.insert("kind".to_owned(), json!(key.0.name()));
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), json!((self.revision + 1).to_string()));
        }
        let object = Arc::new(object);
        self.objects.insert(key.clone(), object.clone());
        self.add(key, before, Some(object.clone()));
        object
    }

    fn add(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.revision += 1;
        self.changes.push_back(Change { revision: self.revision, key, before, after });
        if self.changes.len() > MAX_CHANGES
            && let Some(change) = self.changes.pop_front()
        {
            self.oldest = change.revision;
        }
        self.revisions.send_replace(self.revision);
    }
}

/// Merges a patch into a value: RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
