//! Where rules are written: nftables, or iptables with ipset (`--firewall-backend`).

use std::collections::BTreeSet;

use anyhow::Context;

use crate::config::RuleBackend;
use crate::firewall::{BESIDE, FRAMES};
use crate::kernel::Error;
use crate::kernel::filter::plan::{Observed, Transaction, remove};
use crate::kernel::filter::{Backend, Inside, Name, Ruleset};
use crate::kernel::iptables::{self, Flavour, SharedIptables, SystemPrograms, save};
use crate::kernel::nft::{self, NftClient};
use crate::net::Family;
use crate::routing::egress::FORWARD_TABLE;

/// The real ones.
pub(super) type NodeTables = Tables<NftClient, SharedIptables>;

/// Which of the two rules go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Nftables,
    Iptables,
}

/// Rules go to one of the two; what an earlier run wrote to the other goes once ours are in force. The acceptance of pods
/// goes into iptables wherever there is one: an accept elsewhere does not keep a drop there from dropping.
#[derive(Debug)]
pub(super) struct Tables<N, I> {
    nftables: Option<N>,
    iptables: Option<I>,
    /// The flavour of iptables that an earlier run wrote to, where it is another.
    former: Option<I>,
    writes: Writes,
    forwarding: Forwarding,
    /// Tables that the other one is known not to hold.
    cleared: BTreeSet<Name>,
}

/// Who drops forwarded packets here, and where those of pods are accepted.
#[derive(Clone, Copy, Debug)]
struct Forwarding {
    /// The flavour of iptables that rules may go to.
    flavour: Option<Flavour>,
    /// The router runs, which accepts them there.
    router: bool,
    /// Chains of the tables of old that drop: no netlink tells of them.
    legacy: fn() -> Vec<String>,
}

/// What a node has to write rules with.
#[derive(Clone, Debug)]
pub(super) struct Found {
    writes: Writes,
    /// The kernel has nf_tables.
    nftables: bool,
    iptables: Option<SharedIptables>,
    former: Option<SharedIptables>,
    forwarding: Forwarding,
}

/// Looks for the backend that was asked for, and tells which one it is and why.
///
/// `router` says whether the router runs, which accepts the traffic of pods.
///
/// # Errors
/// The node does not have it, and what to do.
pub(super) fn find(wish: RuleBackend, router: bool) -> anyhow::Result<Found> {
    let nftables = || NftClient::open()?.dump(&Name::from("ferrovia-probe")).map(drop);
    let mut has_nftables = true;
    let choice = SystemPrograms::find();
    let (writes, why) = match wish {
        RuleBackend::Nftables => (Writes::Nftables, "asked for".to_owned()),
        RuleBackend::Iptables => {
            let choice = choice.as_ref().context(
                "--firewall-backend=iptables: there are no iptables-save and iptables-restore programs here: use the image \
                 with tools, or --firewall-backend=nftables",
            )?;
            // What iptables cannot say goes there all the same.
            has_nftables = nftables().inspect_err(|error| tracing::info!(reason = %error, "no nf_tables here")).is_ok();
            (Writes::Iptables, choice.why.clone())
        }
        RuleBackend::Auto => match (nftables(), choice.as_ref()) {
            (Ok(()), _) => (Writes::Nftables, "the kernel has nf_tables".to_owned()),
            (Err(error), Some(choice)) => {
                has_nftables = false;
                (Writes::Iptables, format!("{error}; {}", choice.why))
            }
            (Err(error), None) => return Err(error).context("neither nf_tables nor iptables programs are here"),
        },
    };
    tracing::info!(backend = ?writes, why, "where rules are written");
    let flavour = choice.as_ref().map(|choice| choice.programs.flavour);
    let forwarding = Forwarding { flavour, router, legacy: legacy_drops };
    let open = |programs: SystemPrograms| SharedIptables::open(programs);
    let former = choice.as_ref().and_then(|choice| choice.former).map(open).transpose()?;
    let iptables = choice.map(|choice| open(choice.programs)).transpose()?;
    Ok(Found { writes, nftables: has_nftables, iptables, former, forwarding })
}

/// Whether a table is one of nftables also where all others are of iptables.
fn is_beside(table: &Name) -> bool {
    [BESIDE, FRAMES].contains(&table.as_ref())
}

/// The FORWARD chains of iptables-legacy whose policy is to drop.
fn legacy_drops() -> Vec<String> {
    let drops = |family: &Family| {
        let program = Flavour::Legacy.program(*family);
        let saved = save(program)?;
        saved.lines().any(|line| line.starts_with(":FORWARD DROP ")).then(|| format!("{program} filter FORWARD"))
    };
    Family::ALL.iter().filter_map(drops).collect()
}

/// Whether a chain that drops is the FORWARD of a flavour of iptables.
fn is_of(chain: &str, flavour: Flavour) -> bool {
    let names = match flavour {
        Flavour::Nft => ["ip filter FORWARD", "ip6 filter FORWARD"],
        Flavour::Legacy => ["iptables-legacy filter FORWARD", "ip6tables-legacy filter FORWARD"],
    };
    names.contains(&chain)
}

impl Found {
    /// A door for one room.
    ///
    /// # Errors
    /// The kernel's refusal, where rules go to nftables.
    pub(super) fn open(&self) -> Result<NodeTables, Error> {
        let nftables = match self.writes {
            Writes::Nftables => Some(NftClient::open()?),
            Writes::Iptables if self.nftables => Some(NftClient::open()?),
            Writes::Iptables => None,
        };
        Ok(Tables {
            nftables,
            iptables: self.iptables.clone(),
            former: self.former.clone(),
            writes: self.writes,
            forwarding: self.forwarding,
            cleared: BTreeSet::new(),
        })
    }
}

/// Who tells of foreign changes of our rules.
#[derive(Debug)]
pub(super) enum Ear {
    /// nftables.
    Nftables(nft::monitor::Monitor),
    /// nftables, of the tables of iptables-nft and of those beside them. The tables of old tell nothing.
    Iptables { rules: Option<iptables::monitor::Monitor>, beside: Option<nft::monitor::Monitor> },
}

impl Ear {
    /// Waits for a change; for ever where nobody tells. Safe to drop while waiting.
    pub(super) async fn next(&mut self) -> std::io::Result<()> {
        match self {
            Ear::Nftables(monitor) => monitor.next().await,
            Ear::Iptables { rules, beside } => {
                let rules = async {
                    match rules {
                        Some(monitor) => monitor.next().await,
                        None => std::future::pending().await,
                    }
                };
                let beside = async {
                    match beside {
                        Some(monitor) => monitor.next().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    heard = rules => heard,
                    heard = beside => heard,
                }
            }
        }
    }
}

impl NodeTables {
    /// Begins to listen to what others change in a table, or in those of nftables beside it.
    ///
    /// # Errors
    /// What the kernel answered.
    pub(super) fn listen(&self, table: &str, beside: &[&str]) -> std::io::Result<Ear> {
        let of_nftables = |tables: &[&str]| {
            let port = self.nftables.as_ref().map(NftClient::port).transpose()?;
            let tables = tables.iter().map(|table| Name::from(*table)).collect();
            port.map(|port| nft::monitor::Monitor::open(tables, port)).transpose()
        };
        if self.writes == Writes::Nftables
            && let Some(monitor) = of_nftables(&[&[table], beside].concat())?
        {
            return Ok(Ear::Nftables(monitor));
        }
        let is_nft = self.forwarding.flavour == Some(Flavour::Nft);
        let rules = is_nft.then(iptables::monitor::Monitor::open).transpose()?;
        let beside = of_nftables(beside)?;
        Ok(Ear::Iptables { rules, beside })
    }
}

impl<N: Backend, I: Backend> Tables<N, I> {
    fn writer(&mut self) -> Result<&mut dyn Backend, Error> {
        let found: Option<&mut dyn Backend> = match self.writes {
            Writes::Nftables => self.nftables.as_mut().map(|it| it as &mut dyn Backend),
            Writes::Iptables => self.iptables.as_mut().map(|it| it as &mut dyn Backend),
        };
        found.ok_or_else(|| Error {
            op: "write rules".to_owned(),
            errno: None,
            message: "the backend is not open".to_owned(),
            kind: crate::kernel::Disposition::Fatal,
        })
    }

    /// The door for a table that has a place of its own; `None` where it has none on this node.
    fn door(&mut self, table: &Name) -> Result<Option<&mut dyn Backend>, Error> {
        if table.as_ref() == FORWARD_TABLE {
            return Ok(self.iptables.as_mut().map(|it| it as &mut dyn Backend));
        }
        if is_beside(table) {
            return Ok(self.nftables.as_mut().map(|it| it as &mut dyn Backend));
        }
        self.writer().map(Some)
    }

    /// Removes a table of ours from the backend that is not used.
    fn clear_other(&mut self, table: &Name) -> Result<(), Error> {
        // What is beside iptables is never in it.
        if self.cleared.contains(table) || is_beside(table) {
            return Ok(());
        }
        if let Some(former) = &mut self.former
            && let Ok(Some(observed)) = former.dump(table)
        {
            // Sets are of both flavours: those in use stay.
            take_away(former, table, &observed)?;
        }
        if table.as_ref() == FORWARD_TABLE {
            self.cleared.insert(table.clone());
            return Ok(());
        }
        match self.writes {
            Writes::Nftables => {
                // Programs that do not run have written nothing of ours either.
                if let Some(iptables) = &mut self.iptables
                    && let Ok(Some(observed)) = iptables.dump(table)
                {
                    take_away(iptables, table, &observed)?;
                }
            }
            Writes::Iptables => {
                // A kernel without nf_tables refuses to tell, and holds none of its tables.
                if let Some(nftables) = &mut self.nftables
                    && let Ok(Some(observed)) = nftables.dump(table)
                {
                    take_away(nftables, table, &observed)?;
                }
            }
        }
        self.cleared.insert(table.clone());
        Ok(())
    }
}

fn take_away(backend: &mut impl Backend, table: &Name, observed: &Observed) -> Result<(), Error> {
    backend.commit(&remove(table, Some(observed)))
}

impl<N: Backend, I: Backend> Backend for Tables<N, I> {
    fn inside(&self) -> Inside {
        match (self.writes, &self.nftables) {
            (Writes::Nftables, _) => Inside::Own,
            (Writes::Iptables, Some(_)) => Inside::Beside,
            (Writes::Iptables, None) => Inside::Nowhere,
        }
    }

    fn dump(&mut self, table: &Name) -> Result<Option<Observed>, Error> {
        self.door(table)?.map_or(Ok(None), |door| door.dump(table))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let Some(table) = &transaction.table else { return self.writer()?.commit(transaction) };
        let Some(door) = self.door(table)? else { return Ok(()) };
        door.commit(transaction)?;
        self.clear_other(table)
    }

    fn remove(&mut self, table: &Name) -> Result<usize, Error> {
        let n_changes = self.door(table)?.map_or(Ok(0), |door| door.remove(table))?;
        // Also where there was nothing: whoever takes rules away need not know where an earlier run wrote them.
        self.clear_other(table)?;
        Ok(n_changes)
    }

    fn plan(&mut self, table: &Name, desired: &Ruleset) -> Result<Transaction, Error> {
        let Some(door) = self.door(table)? else {
            return Ok(Transaction { table: Some(table.clone()), changes: Vec::new() });
        };
        let transaction = door.plan(table, desired)?;
        if transaction.is_empty() {
            self.clear_other(table)?;
        }
        Ok(transaction)
    }

    fn place(&self, table: &Name) -> String {
        match (self.writes, &self.nftables, &self.iptables) {
            (_, Some(nftables), _) if is_beside(table) => nftables.place(table),
            (Writes::Nftables, Some(nftables), _) => nftables.place(table),
            (Writes::Iptables, _, Some(iptables)) => iptables.place(table),
            _ => table.to_string(),
        }
    }

    fn limits(&mut self) -> Vec<String> {
        let mut limits = self.writer().map(|door| door.limits()).unwrap_or_default();
        let Forwarding { flavour, router, legacy } = self.forwarding;
        let advice = if router {
            "give it the policy ACCEPT, or rules that accept what comes from and goes to kube-bridge"
        } else {
            "the router, which would accept the traffic of pods there, does not run: whoever connects pods must"
        };
        let drops = self.forward_drops().into_iter().chain(legacy());
        let drops = drops.filter(|chain| !router || flavour.is_none_or(|flavour| !is_of(chain, flavour)));
        limits.extend(drops.map(|chain| format!("{chain} drops forwarded packets it does not accept: {advice}")));
        limits
    }

    fn forward_drops(&mut self) -> Vec<String> {
        self.nftables.as_mut().map(Backend::forward_drops).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ipset::fake::FakeIpset;
    use crate::kernel::iptables::Iptables;
    use crate::kernel::iptables::fake::FakePrograms;
    use crate::kernel::nft::fake::FakeNft;
    use crate::testing::contract::iptables::{TABLE, converge, speakable};

    type Fakes = Tables<FakeNft, Iptables<FakeIpset, FakePrograms>>;

    fn tables(nftables: Option<FakeNft>, iptables: Option<Iptables<FakeIpset, FakePrograms>>, writes: Writes) -> Fakes {
        let flavour = iptables.as_ref().map(|_| Flavour::Nft);
        let forwarding = Forwarding { flavour, router: true, legacy: Vec::new };
        Tables { nftables, iptables, former: None, writes, forwarding, cleared: BTreeSet::new() }
    }

    #[test]
    fn a_table_is_taken_away_wherever_an_earlier_run_wrote_it() {
        let table = Name::from(TABLE);
        for writes in [Writes::Nftables, Writes::Iptables] {
            let (mut nftables, mut iptables) = (FakeNft::new(), Iptables::new(FakeIpset::new(), FakePrograms::new()));
            match writes {
                Writes::Nftables => converge(&mut iptables, &speakable()),
                Writes::Iptables => converge(&mut nftables, &speakable()),
            }
            let mut both = tables(Some(nftables), Some(iptables), writes);
            both.remove(&table).expect("it is removed");
            assert!(both.nftables.as_mut().expect("it is there").dump(&table).expect("a dump").is_none());
            assert!(both.iptables.as_mut().expect("it is there").dump(&table).expect("a dump").is_none());
        }
    }

    #[test]
    fn pods_are_accepted_in_iptables_also_where_rules_go_to_nftables() {
        let mut nftables = FakeNft::new();
        nftables.put_forward_drop("ip filter FORWARD");
        let iptables = Iptables::new(FakeIpset::new(), FakePrograms::new());
        let mut both = tables(Some(nftables.clone()), Some(iptables), Writes::Nftables);
        let table = Name::from(FORWARD_TABLE);
        let desired = crate::routing::egress::forward(Some("eth0"));
        let transaction = both.plan(&table, &desired).expect("a plan");
        both.commit(&transaction).expect("it is written");
        assert!(both.plan(&table, &desired).expect("a plan").is_empty());
        assert_eq!(both.nftables.as_ref().map(|it| it.tables().count()), Some(0));
        let saved = |tables: &mut Fakes, family| {
            let (_, programs) = tables.iptables.as_mut().expect("it is there").doors();
            crate::kernel::iptables::Programs::save(programs, family).expect("text")
        };
        for family in Family::ALL {
            let text = saved(&mut both, family);
            for rule in ["-i kube-bridge ", "-o kube-bridge ", "-o eth0 "] {
                let accepts = |line: &str| line.contains(rule) && line.ends_with("-j ACCEPT");
                assert!(text.lines().any(accepts), "{rule}: {text}");
            }
            assert!(text.contains("-j FERROVIA-FORWARD"), "{text}");
        }
        assert_eq!(both.limits(), [""; 0], "what is accepted there is not dropped");

        let mut without = tables(Some(nftables), None, Writes::Nftables);
        assert!(without.plan(&table, &desired).expect("a plan").is_empty(), "no accept of nftables would help");
        let told = without.limits();
        assert!(told.len() == 1 && told[0].starts_with("ip filter FORWARD drops"), "{told:?}");
    }

    #[test]
    fn what_iptables_cannot_say_goes_to_nftables_beside_it() {
        let iptables = || Iptables::new(FakeIpset::new(), FakePrograms::new());
        let mut both = tables(Some(FakeNft::new()), Some(iptables()), Writes::Iptables);
        let table = Name::from(BESIDE);
        assert_eq!(both.inside(), Inside::Beside);
        converge(&mut both, &speakable());
        let transaction = both.plan(&table, &speakable()).expect("a plan");
        both.commit(&transaction).expect("it is written");
        let names = |both: &Fakes| both.nftables.iter().flat_map(|it| it.tables().cloned()).collect::<Vec<_>>();
        assert_eq!(names(&both), std::slice::from_ref(&table));
        assert!(both.place(&table).starts_with("table inet"), "{}", both.place(&table));
        assert_eq!(both.place(&Name::from(FRAMES)), "table bridge ferrovia-bridge");
        both.remove(&table).expect("it is removed");
        assert!(names(&both).is_empty());
        assert!(both.dump(&Name::from(TABLE)).expect("a dump").is_some(), "the rules of iptables stay");

        let frames = Name::from(FRAMES);
        let chain = crate::kernel::filter::Chain::default();
        let desired = Ruleset { chains: [(Name::from("forward"), chain)].into(), ..Ruleset::default() };
        let transaction = both.plan(&frames, &desired).expect("a plan");
        both.commit(&transaction).expect("it is written");
        assert_eq!(names(&both), std::slice::from_ref(&frames));
        assert_eq!(both.remove(&frames).expect("it is removed"), 1);

        let mut without = tables(None, Some(iptables()), Writes::Iptables);
        assert!(without.plan(&frames, &desired).expect("nothing to do").is_empty());
        assert_eq!((without.inside(), without.remove(&table).expect("nothing to do")), (Inside::Nowhere, 0));
    }

    #[test]
    fn names_of_chains_and_sets_tell_our_tables_apart() {
        let tables = [crate::proxy::TABLE, crate::routing::egress::TABLE, FORWARD_TABLE, crate::firewall::TABLE];
        let tags: BTreeSet<String> = tables.into_iter().map(iptables::tag).collect();
        assert_eq!(tags.len(), tables.len(), "{tags:?}");
    }

    #[test]
    fn what_an_earlier_run_left_in_the_other_flavour_goes() {
        let mut former = Iptables::new(FakeIpset::new(), FakePrograms::new());
        converge(&mut former, &speakable());
        let ours = Iptables::new(FakeIpset::new(), FakePrograms::new());
        let mut tables = tables(None, Some(ours), Writes::Iptables);
        tables.former = Some(former);
        let chains = |tables: &mut Fakes| {
            let (_, programs) = tables.former.as_mut().expect("it is there").doors();
            programs.family(Family::V4).print().matches("FERROVIA").count()
        };
        assert!(chains(&mut tables) > 0);
        converge(&mut tables, &speakable());
        assert_eq!(chains(&mut tables), 0);
    }

    #[test]
    fn what_the_other_backend_holds_goes_once_ours_is_in_force() {
        let mut nftables = FakeNft::new();
        converge(&mut nftables, &speakable());
        let iptables = Iptables::new(FakeIpset::new(), FakePrograms::new());
        let mut tables = tables(Some(nftables), Some(iptables), Writes::Iptables);
        let table = Name::from(TABLE);
        let transaction = tables.plan(&table, &speakable()).expect("a plan");
        let held = |tables: &mut Tables<FakeNft, _>| tables.nftables.as_ref().is_some_and(|it| it.tables().count() > 0);
        assert!(held(&mut tables), "until then both hold");
        tables.commit(&transaction).expect("it is written");
        assert!(!held(&mut tables));

        let Tables { nftables, iptables, .. } = tables;
        let mut tables = self::tables(nftables, iptables, Writes::Nftables);
        converge(&mut tables, &speakable());
        let (ipset, programs) = tables.iptables.as_mut().expect("it is there").doors();
        assert!(ipset.sets().is_empty());
        assert!(
            !crate::kernel::iptables::Programs::save(programs, crate::net::Family::V4)
                .expect("text")
                .contains("FERROVIA")
        );
        assert!(held(&mut tables));
    }
}
