//! Whether the rules as they are allow a connection that was begun under others (pure).
//!
//! It interprets the table itself, not what it was made from: whatever the compiler writes is judged as the kernel judges
//! it. The elements of sets come from the book.

use std::net::IpAddr;

use super::book::Book;
use super::compile::{EGRESS, INGRESS, cidrs_set, itself_set, pods_map};
use super::members::View;
use super::resolve::Direction;
use super::table::Table;
use crate::kernel::filter::{Chain, Elements, Field, Match, Name, Rule, Selector, Statement, Value};
use crate::net::{Family, Protocol};

/// More jumps than any table of ours has.
const MOST_JUMPS: usize = 16;

/// The first packet of a connection, after any translation: the real client and the real pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who asked.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Who answers.
    pub destination: IpAddr,
    /// Its port.
    pub port: u16,
    /// The protocol; `None` for an echo (ICMP) and others that rules know no ports of.
    pub protocol: Option<Protocol>,
}

/// The rules, ready to be asked.
#[derive(Debug)]
pub struct Judge<'a> {
    table: &'a Table,
    book: &'a Book,
}

/// Something this interpreter does not know: then it has no opinion.
#[derive(Debug, PartialEq, Eq)]
struct Unknown;

/// How a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Through,
    Allowed,
    Denied,
}

impl<'a> Judge<'a> {
    /// For a table and the book it was made from.
    pub fn new(table: &'a Table, book: &'a Book) -> Judge<'a> {
        Judge { table, book }
    }

    /// Whether this node has a pod with that address.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.table.addresses.contains_key(&address)
    }

    /// Whether that address is a pod's of this node, or one that a pod of this node may get.
    pub fn concerns(&self, address: IpAddr) -> bool {
        let cidrs = self.table.frame.sets.get(&cidrs_set(Family::of(address))).map(|set| &set.elements);
        self.knows(address)
            || matches!(cidrs, Some(Elements::Prefixes(prefixes)) if prefixes.iter().any(|prefix| prefix.contains(&address)))
    }

    /// Whether a new connection of this kind would be let through; `from_node` says that this node itself began it.
    /// What cannot be judged counts as allowed.
    pub fn allows(&self, connection: &Connection, from_node: bool) -> bool {
        from_node
            || [EGRESS, INGRESS].iter().all(|question| {
                let chain = self.table.chains.get(*question);
                chain.is_none_or(|chain| self.walk(chain, connection, 0) != Ok(End::Denied))
            })
    }

    fn walk(&self, chain: &Chain, connection: &Connection, depth: usize) -> Result<End, Unknown> {
        if depth > MOST_JUMPS {
            return Err(Unknown);
        }
        for rule in &chain.rules {
            if !self.matches(rule, connection)? {
                continue;
            }
            for statement in &rule.statements {
                let jump = match statement {
                    Statement::Counter | Statement::Log { .. } => continue,
                    Statement::Accept => return Ok(End::Allowed),
                    Statement::Drop | Statement::Reject => return Ok(End::Denied),
                    Statement::Return => return Ok(End::Through),
                    Statement::Jump(chain) => chain,
                    Statement::VerdictMap { selectors, map } => match self.entry(selectors, map, connection)? {
                        // No entry ends the rule.
                        None => break,
                        Some(Value::Jump(chain)) => chain,
                        Some(Value::Accept) => return Ok(End::Allowed),
                        Some(Value::Drop) => return Ok(End::Denied),
                        Some(Value::Mark(_)) => return Err(Unknown),
                    },
                    _ => return Err(Unknown),
                };
                let chain = self.table.chains.get(jump).ok_or(Unknown)?;
                match self.walk(chain, connection, depth + 1)? {
                    End::Through => {}
                    end => return Ok(end),
                }
            }
        }
        Ok(End::Through)
    }

    fn matches(&self, rule: &Rule, connection: &Connection) -> Result<bool, Unknown> {
        for matched in &rule.matches {
            let holds = match matched {
                // It is judged as if it began now, and an echo is none of the types that rules name.
                Match::CtState(_) | Match::CtDirectionReply | Match::IcmpTypes { .. } | Match::IpInIp(_) => false,
                Match::CtMark { value, .. } => *value == 0,
                Match::Family(family) => *family == Family::of(connection.source),
                Match::Protocol(protocol) => Some(*protocol) == connection.protocol,
                Match::DestinationPorts { first, last } => {
                    connection.protocol.is_some() && (*first..=*last).contains(&connection.port)
                }
                Match::InSet { selectors, set, negated } => match read(selectors, connection) {
                    Some(key) => self.is_in(set, &key)? != *negated,
                    None => false,
                },
                _ => return Err(Unknown),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&self, selectors: &[Selector], map: &Name, connection: &Connection) -> Result<Option<&Value>, Unknown> {
        let Some(key) = read(selectors, connection) else { return Ok(None) };
        let [address] = addresses(&key)[..] else { return Err(Unknown) };
        let directions = [Direction::Ingress, Direction::Egress];
        let direction = directions.into_iter().find(|direction| pods_map(*direction, Family::of(address)) == *map);
        let direction = direction.ok_or(Unknown)?;
        Ok(self.table.addresses.get(&address).map(|verdicts| verdicts.of(direction)))
    }

    fn is_in(&self, set: &Name, key: &[Field]) -> Result<bool, Unknown> {
        let found = addresses(key);
        let Some(address) = found.first().copied() else { return Err(Unknown) };
        if *set == itself_set(Family::of(address)) {
            return Ok(found.iter().all(|other| *other == address) && self.knows(address));
        }
        if let Some(members) = self.table.sets.named(set) {
            let port = match (key.get(1), &members.view) {
                (Some(Field::Port(port)), View::NamedPort { .. }) => *port,
                (None, View::Addresses) => 0,
                _ => return Err(Unknown),
            };
            return Ok(self.book.members().contains(members, (address, port)));
        }
        let blocks = self.table.blocks.get(set).map(|(set, _)| set).or_else(|| self.table.frame.sets.get(set));
        match blocks.map(|set| &set.elements) {
            Some(Elements::Prefixes(prefixes)) => Ok(prefixes.iter().any(|prefix| prefix.contains(&address))),
            _ => Err(Unknown),
        }
    }
}

/// The fields of a packet; `None` where it has no such field.
fn read(selectors: &[Selector], connection: &Connection) -> Option<Vec<Field>> {
    let of = |family: Family, address: IpAddr| (Family::of(address) == family).then(|| Field::from(address));
    let field = |selector: &Selector| match selector {
        Selector::Source4 => of(Family::V4, connection.source),
        Selector::Source6 => of(Family::V6, connection.source),
        Selector::Destination4 => of(Family::V4, connection.destination),
        Selector::Destination6 => of(Family::V6, connection.destination),
        Selector::DestinationPort => connection.protocol.map(|_| Field::Port(connection.port)),
        Selector::SourcePort => connection.protocol.map(|_| Field::Port(connection.source_port)),
        Selector::Protocol => connection.protocol.map(Field::Protocol),
        _ => None,
    };
    selectors.iter().map(field).collect()
}

fn addresses(key: &[Field]) -> Vec<IpAddr> {
    let address = |field: &Field| match field {
        Field::Ipv4(address) => Some(IpAddr::V4(*address)),
        Field::Ipv6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    key.iter().filter_map(address).collect()
}
