//! Manifest text: YAML or JSON documents with Kubernetes objects, and where in the text things stand (pure).
//!
//! One document, or one entry of a list, that cannot be read is reported and affects nothing else.

use std::cell::OnceCell;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::debug;

use crate::k8s::convert::cluster_policy::ClusterNetworkPolicy;

use super::place::{self, Outline, Step};

/// An object of a kind this daemon reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Service.
    Service(Box<Service>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// `v1` Node.
    Node(Box<Node>),
    /// `v1` Pod.
    Pod(Box<Pod>),
    /// `v1` Namespace.
    Namespace(Box<Namespace>),
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy(Box<NetworkPolicy>),
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
}

/// Something in a manifest that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// The file, as it was found below the folder.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// `service ns/name` where that much could be read, else empty.
    pub object: String,
    /// The path of the field, empty where the whole document is meant.
    pub field: String,
    /// What is wrong and what happens instead.
    pub message: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        for part in [&self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// One document of a file.
#[derive(Debug)]
struct Document<'a> {
    file: &'a str,
    text: &'a str,
    /// The line of the file its text begins with, from 1.
    first_line: usize,
    /// Where everything in it stands: made when the first complaint asks for it.
    outline: OnceCell<Option<Outline>>,
}

/// Where an object stands, for reports about its fields.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    document: &'a Document<'a>,
    /// From the root of the document to the object.
    steps: Vec<Step>,
    /// `service ns/name`.
    pub object: String,
}

impl Place<'_> {
    /// The file, and the first line of the document that says something: costs nothing, unlike a report.
    pub fn document(&self) -> (&str, usize) {
        let says_nothing = |line: &&str| !says_something(line);
        (self.document.file, self.document.first_line + self.document.text.lines().take_while(says_nothing).count())
    }

    /// A report about one field of the object.
    pub fn report(&self, field: &str, message: impl Into<String>) -> Report {
        let mut steps = self.steps.clone();
        steps.extend(place::parse_path(field));
        Report {
            file: self.document.file.to_owned(),
            line: self.document.line_of(&steps),
            object: self.object.clone(),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl<'a> Document<'a> {
    fn new(file: &'a str, text: &'a str, first_line: usize) -> Document<'a> {
        Document { file, text, first_line, outline: OnceCell::new() }
    }

    fn line_of(&self, steps: &[Step]) -> usize {
        let outline = self.outline.get_or_init(|| Outline::read(self.text));
        let line = outline.as_ref().and_then(|outline| outline.line_of(steps));
        line.map_or(self.first_line, |line| self.first_line + line - 1)
    }

    fn report(&self, line: usize, message: String) -> Report {
        Report { file: self.file.to_owned(), line, object: String::new(), field: String::new(), message }
    }
}

/// Reads one file: every object of a kind we read goes to `found`, every complaint to `reports`.
///
/// `file` is the name reports carry; one that ends in `.json` is read as JSON.
pub fn read(file: &str, text: &str, found: &mut dyn FnMut(Object, &Place<'_>), reports: &mut Vec<Report>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file.ends_with(".json") {
        read_json(file, text, found, reports);
        return;
    }
    for (first_line, text) in documents(text) {
        let document = Document::new(file, text, first_line);
        let options = serde_saphyr::options! { budget: None, strict_booleans: true, with_snippet: false };
        match serde_saphyr::from_str_with_options::<Value>(text, options) {
            Ok(Value::Null) => {}
            Ok(value) => unfold(&document, &value, found, reports),
            Err(error) => {
                let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1)).max(1);
                reports.push(document.report(first_line + line - 1, format!("not YAML, document ignored: {error}")));
            }
        }
    }
}

/// JSON documents one after the other. What follows a broken one cannot be found and is lost.
fn read_json(file: &str, text: &str, found: &mut dyn FnMut(Object, &Place<'_>), reports: &mut Vec<Report>) {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let start = stream.byte_offset();
        let rest = text.get(start..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let first_line = 1 + text.get(..start + blank).unwrap_or_default().matches('\n').count();
        match stream.next() {
            None => return,
            Some(Ok(value)) => {
                let document = text.get(start + blank..stream.byte_offset()).unwrap_or_default();
                unfold(&Document::new(file, document, first_line), &value, found, reports);
            }
            Some(Err(error)) => {
                let document = Document::new(file, rest, first_line);
                reports.push(document.report(error.line().max(1), format!("not JSON, rest of file ignored: {error}")));
                return;
            }
        }
    }
}

/// The YAML documents of a text with the line each begins at. `---` at the start of a line cannot occur inside a
/// document (YAML 1.2.2, 9.1.2), so the split needs no parser and a broken document harms no other.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start {
            documents.push((start_line, text.get(start..offset).unwrap_or_default()));
            (start, start_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push((start_line, text.get(start..).unwrap_or_default()));
    documents.retain(|(_, text)| text.lines().any(says_something));
    documents
}

/// Whether a line is more than space, comment, directive or marker.
fn says_something(line: &str) -> bool {
    !matches!(line.trim_start().chars().next(), None | Some('#' | '%')) && !matches!(line.trim_end(), "---" | "...")
}

/// One document: an object, or a list of objects.
fn unfold(
    document: &Document<'_>,
    value: &Value,
    found: &mut dyn FnMut(Object, &Place<'_>),
    reports: &mut Vec<Report>,
) {
    let kind = text_at(value, "kind");
    let api_version = text_at(value, "apiVersion");
    let items = value.get("items").and_then(Value::as_array);
    let (Some(kind_of_items), Some(items)) = (kind.strip_suffix("List"), items) else {
        object(document, Vec::new(), value, (kind, api_version), found, reports);
        return;
    };
    for (index, item) in items.iter().enumerate() {
        // The API server leaves kind and version of the entries of a ServiceList to the list.
        let own = text_at(item, "kind");
        let named = if own.is_empty() { (kind_of_items, api_version) } else { (own, text_at(item, "apiVersion")) };
        object(document, vec![Step::Key("items".to_owned()), Step::Index(index)], item, named, found, reports);
    }
}

/// One object.
fn object(
    document: &Document<'_>,
    steps: Vec<Step>,
    value: &Value,
    (kind, api_version): (&str, &str),
    found: &mut dyn FnMut(Object, &Place<'_>),
    reports: &mut Vec<Report>,
) {
    let place = Place { document, steps, object: describe(kind, value) };
    let wanted = match kind {
        "Service" | "Node" | "Pod" | "Namespace" => "v1",
        "NetworkPolicy" => "networking.k8s.io/v1",
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "" => {
            reports.push(place.report("", "not a Kubernetes object, ignored: it has no kind"));
            return;
        }
        _ => {
            debug!(file = document.file, object = %place.object, "manifest of a kind that has no effect");
            return;
        }
    };
    if api_version != wanted {
        let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
        if group(api_version) == group(wanted) {
            let message = format!("{api_version:?} is not read, object ignored: write {wanted}");
            reports.push(place.report("apiVersion", message));
        } else {
            debug!(file = document.file, object = %place.object, "manifest of a kind that has no effect");
        }
        return;
    }
    let read = match kind {
        "Service" => typed(value).map(|object| Object::Service(Box::new(object))),
        "EndpointSlice" => typed(value).map(|object| Object::EndpointSlice(Box::new(object))),
        "Node" => typed(value).map(|object| Object::Node(Box::new(object))),
        "Namespace" => typed(value).map(|object| Object::Namespace(Box::new(object))),
        "NetworkPolicy" => typed(value).map(|object| Object::NetworkPolicy(Box::new(object))),
        "ClusterNetworkPolicy" => typed(value).map(|object| Object::ClusterNetworkPolicy(Box::new(object))),
        _ => typed(value).map(|object| Object::Pod(Box::new(object))),
    };
    match read {
        Ok(object) => found(object, &place),
        Err((field, message)) => reports.push(place.report(&field, format!("object ignored: {message}"))),
    }
}

/// The API object, or the path of the field that does not fit with the reason.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let steps: Vec<Step> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
                serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
                _ => None,
            })
            .collect();
        (place::show_path(&steps), error.into_inner().to_string())
    })
}

fn text_at<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// `service ns/name`, as much of it as can be read.
fn describe(kind: &str, value: &Value) -> String {
    let meta = value.get("metadata").unwrap_or(&Value::Null);
    let (namespace, name) = (text_at(meta, "namespace"), text_at(meta, "name"));
    let kind = kind.to_lowercase();
    match (kind.as_str(), namespace, name) {
        (_, _, "") => kind,
        ("node" | "namespace" | "clusternetworkpolicy", _, name) => format!("{kind} {name}"),
        (_, "", name) => format!("{kind} default/{name}"),
        (_, namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}
