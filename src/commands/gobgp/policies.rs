//! `policy`, `global policy`, `neighbor X policy`.

use super::{Session, json_list, print, read};
use crate::cli::gobgp::Way;
use crate::routing::bgp::api::adapt::Version;
use crate::routing::bgp::api::schema::{self, Shape, inner};
use crate::routing::bgp::api::{policy_message as p, text};

impl Session<'_> {
    /// `global policy`, `neighbor X policy`.
    pub(super) async fn assigned(&mut self, peer: Option<&str>, way: Way) -> anyhow::Result<()> {
        let name = match peer {
            Some(peer) => self.address(peer).await?,
            None => "global".to_owned(),
        };
        let ways: &[(i32, &str)] = match way {
            Way::In => &[(1, "Import")],
            Way::Out => &[(2, "Export")],
            Way::Both => &[(1, "Import"), (2, "Export")],
        };
        for (direction, title) in ways {
            // 4.x knows the global table by no name.
            let of = |version| if version == Version::V4 && peer.is_none() { String::new() } else { name.clone() };
            let question = |version| p::ListPolicyAssignmentRequest { name: of(version), direction: *direction };
            let answer = self.client.ask("ListPolicyAssignment", question).await?;
            let found = schema::as_v3(self.client.version(), schema::ASSIGNMENT, inner(1, &answer));
            if self.options.json {
                print(&format!("{}\n", schema::json(schema::ASSIGNMENT, &found)))?;
            } else {
                let indent = if way == Way::Both { 4 } else { 0 };
                print(&text::assignment(title, &read(&found)?, indent))?;
            }
        }
        Ok(())
    }

    /// `policy [NAME]`.
    pub(super) async fn policies(&mut self, name: Option<&str>) -> anyhow::Result<()> {
        let found = self.named("ListPolicy", schema::POLICY, name).await?;
        self.show(&found, schema::POLICY, text::policies, |one: &p::Policy| &one.name)
    }

    /// `policy statement [NAME]`.
    pub(super) async fn statements(&mut self, name: Option<&str>) -> anyhow::Result<()> {
        let found = self.named("ListStatement", schema::STATEMENT, name).await?;
        self.show(&found, schema::STATEMENT, text::statements, |one: &p::Statement| &one.name)
    }

    /// `policy KIND [NAME]`.
    pub(super) async fn sets(&mut self, kind: i32, heading: &str, name: Option<&str>) -> anyhow::Result<()> {
        let name = name.unwrap_or_default();
        let question =
            |version: Version| p::ListDefinedSetRequest { defined_type: kind + version.shift(), name: name.to_owned() };
        let answers = self.client.all("ListDefinedSet", question).await?;
        let version = self.client.version();
        let found: Vec<_> =
            answers.iter().map(|one| schema::as_v3(version, schema::DEFINED_SET, inner(1, one))).collect();
        let table = |sets: &[p::DefinedSet]| text::defined_sets(heading, sets);
        self.show(&found, schema::DEFINED_SET, table, |one: &p::DefinedSet| &one.name)
    }

    /// All of a kind, or the one so named.
    async fn named(&mut self, method: &str, shape: Shape, name: Option<&str>) -> anyhow::Result<Vec<Vec<u8>>> {
        let answers = self.client.all(method, |_| p::NameRequest::default()).await?;
        let version = self.client.version();
        let all = answers.iter().map(|one| schema::as_v3(version, shape, inner(1, one)));
        let Some(name) = name else { return Ok(all.collect()) };
        // The name is the first field of each.
        let found: Vec<Vec<u8>> = all.filter(|one| inner(1, one) == name.as_bytes()).take(1).collect();
        anyhow::ensure!(!found.is_empty(), "not found {name}");
        Ok(found)
    }

    fn show<T: prost::Message + Default>(
        &self,
        found: &[Vec<u8>],
        shape: Shape,
        text: impl Fn(&[T]) -> String,
        name: fn(&T) -> &String,
    ) -> anyhow::Result<()> {
        if self.options.json {
            return Ok(print(&json_list(found.iter().map(|one| schema::json(shape, one))))?);
        }
        let all = found.iter().map(|one| read(one)).collect::<anyhow::Result<Vec<T>>>()?;
        if self.options.quiet {
            return Ok(print(&all.iter().map(|one| format!("{}\n", name(one))).collect::<String>())?);
        }
        Ok(print(&text(&all))?)
    }
}
