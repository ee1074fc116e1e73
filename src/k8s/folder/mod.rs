//! A folder of manifests as the source of the cluster: for hosts without Kubernetes, labs, tests and `render`.
//!
//! Every `*.yaml`, `*.yml` and `*.json` file below the folder is read, in order of their names. What cannot be read is
//! reported and absent; it is never replaced by what once stood there.

pub mod manifest;
mod place;
pub(super) mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use manifest::{Object, Place, Report};

use super::cluster::{Cluster, Update, whole_list};
use super::convert::endpoint_slice::SliceId;
use super::convert::{
    Context, Converted, Names, cluster_policy, endpoint_slice, namespace, network_policy, node, pod, service,
};
use crate::model::{
    ClusterNetworkPolicy, ClusterPolicyName, EndpointSlice, Generation, Namespace, NamespaceName, NetworkPolicy, Node,
    NodeName, Pod, PodKey, PolicyKey, Service, ServiceKey, SliceKey, Snapshot,
};

/// How deep folders may nest: a bound for links that lead back up.
const MAX_DEPTH: usize = 16;

/// Why a folder could not be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the manifest folder {}: {source}; --manifests must name a readable folder", path.display())]
pub struct FolderError {
    /// What could not be read.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// Everything the manifests say, converted.
#[derive(Debug, Default)]
pub struct Loaded {
    services: Vec<Converted<ServiceKey, ServiceKey, Service>>,
    slices: Vec<Converted<SliceId, SliceKey, EndpointSlice>>,
    nodes: Vec<Converted<NodeName, NodeName, Node>>,
    pods: Vec<Converted<PodKey, PodKey, Pod>>,
    namespaces: Vec<Converted<NamespaceName, NamespaceName, Namespace>>,
    policies: Vec<Converted<PolicyKey, PolicyKey, NetworkPolicy>>,
    cluster_policies: Vec<Converted<ClusterPolicyName, ClusterPolicyName, ClusterNetworkPolicy>>,
    /// Where each object was found, by kind and name.
    places: BTreeMap<String, (String, usize)>,
    /// What could not be used, in order of files and lines.
    pub reports: Vec<Report>,
}

impl Loaded {
    /// Reads one text as if it were a file of that name.
    pub fn read(&mut self, file: &str, text: &str, context: Context<'_>) {
        let mut syntax = Vec::new();
        manifest::read(file, text, &mut |object, place| self.add(&object, place, context), &mut syntax);
        self.reports.append(&mut syntax);
    }

    /// Converts one object; its complaints become reports.
    fn add(&mut self, object: &Object, place: &Place<'_>, context: Context<'_>) {
        if let Some((file, line)) = self.places.get(&place.object) {
            self.reports.push(place.report("", format!("object ignored: it already stands in {file}:{line}")));
            return;
        }
        let rejections = match object {
            Object::Service(object) => keep(&mut self.services, service::convert(object, context)),
            Object::EndpointSlice(object) => keep(&mut self.slices, endpoint_slice::convert(object, context)),
            Object::Node(object) => keep(&mut self.nodes, node::convert(object, context)),
            Object::Pod(object) => keep(&mut self.pods, pod::convert(object, context)),
            Object::Namespace(object) => keep(&mut self.namespaces, namespace::convert(object, context)),
            Object::NetworkPolicy(object) => keep(&mut self.policies, network_policy::convert(object, context)),
            Object::ClusterNetworkPolicy(object) => {
                keep(&mut self.cluster_policies, cluster_policy::convert(object, context))
            }
        };
        for rejection in rejections {
            let message = if rejection.value.is_empty() {
                rejection.message.clone()
            } else {
                format!("{:?}: {}", rejection.value, rejection.message)
            };
            self.reports.push(place.report(&rejection.field, message));
        }
        let (file, line) = place.document();
        self.places.insert(place.object.clone(), (file.to_owned(), line));
    }

    /// The content as the events of complete lists.
    pub(super) fn into_updates(self) -> Vec<Update> {
        let services = whole_list(self.services).into_iter().map(Update::Service);
        let slices = whole_list(self.slices).into_iter().map(Update::EndpointSlice);
        let nodes = whole_list(self.nodes).into_iter().map(Update::Node);
        let pods = whole_list(self.pods).into_iter().map(Update::Pod);
        let namespaces = whole_list(self.namespaces).into_iter().map(Update::Namespace);
        let policies = whole_list(self.policies).into_iter().map(Update::NetworkPolicy);
        let cluster_policies = whole_list(self.cluster_policies).into_iter().map(Update::ClusterNetworkPolicy);
        let objects = services.chain(slices).chain(nodes).chain(pods).chain(namespaces);
        objects.chain(policies).chain(cluster_policies).collect()
    }

    /// The content as the first snapshot, with the reports in order.
    pub fn into_snapshot(mut self, node_name: &NodeName) -> (Snapshot, Vec<Report>) {
        self.reports.sort();
        let reports = std::mem::take(&mut self.reports);
        let mut cluster = Cluster::default();
        for update in self.into_updates() {
            cluster.fold(update);
        }
        (cluster.snapshot(Generation(1), node_name), reports)
    }
}

/// Keeps what an object became, hands back what was rejected: in a folder that is reported with file and line.
fn keep<I, K, V>(list: &mut Vec<Converted<I, K, V>>, mut object: Converted<I, K, V>) -> Vec<super::convert::Rejection> {
    let rejections = std::mem::take(&mut object.rejections);
    list.push(object);
    rejections
}

/// One file below the folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    /// Below the folder, as reports name it.
    name: String,
    path: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

/// The files of a folder, sorted by name: equal lists mean that nothing was written. Hidden ones are left out: a
/// mounted ConfigMap keeps its real files in folders whose names begin with `..`, and links to them from above.
fn list(folder: &Path) -> Result<Vec<File>, FolderError> {
    let mut files = Vec::new();
    list_below(folder, "", 0, &mut files).map_err(|source| FolderError { path: folder.to_owned(), source })?;
    files.sort();
    Ok(files)
}

fn list_below(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<File>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        // Follows links. What has just gone, and a link to nowhere, is not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                list_below(&path, &format!("{name}/"), depth + 1, files)?;
            }
        } else if metadata.is_file() && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending)) {
            files.push(File { name, path, modified: metadata.modified().ok(), length: metadata.len() });
        }
    }
    Ok(())
}

/// Reads all files of a list.
fn load(files: &[File], context: Context<'_>) -> Loaded {
    let mut loaded = Loaded::default();
    for file in files {
        match fs::read(&file.path).map(String::from_utf8) {
            Ok(Ok(text)) => loaded.read(&file.name, &text, context),
            Ok(Err(error)) => loaded.reports.push(unreadable(file, &format!("not UTF-8 text, file ignored: {error}"))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => loaded.reports.push(unreadable(file, &format!("cannot be read, file ignored: {error}"))),
        }
    }
    loaded.reports.sort();
    loaded
}

fn unreadable(file: &File, message: &str) -> Report {
    Report {
        file: file.name.clone(),
        line: 1,
        object: String::new(),
        field: String::new(),
        message: message.to_owned(),
    }
}

/// Reads a folder once: the snapshot `node_name` would see (generation 1), and everything that could not be used.
///
/// # Errors
///
/// When the folder itself cannot be listed. A file that cannot be read is a report.
pub fn load_folder_once(folder: &Path, node_name: &NodeName) -> Result<(Snapshot, Vec<Report>), FolderError> {
    let names = Names::default();
    let files = list(folder)?;
    Ok(load(&files, Context { own_node: node_name, names: &names, policies: true }).into_snapshot(node_name))
}

/// Reads one text as `node_name` would see it (generation 1): for tests and tools.
pub fn load_text(text: &str, node_name: &NodeName) -> (Snapshot, Vec<Report>) {
    let names = Names::default();
    let mut loaded = Loaded::default();
    loaded.read("cluster.yaml", text, Context { own_node: node_name, names: &names, policies: true });
    loaded.into_snapshot(node_name)
}

#[cfg(test)]
mod tests;
