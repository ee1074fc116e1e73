//! Frames with a VLAN tag from pod to pod of one bridge: a tag leads around no policy.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use ferrovia::firewall::FRAMES;
use ferrovia::kernel::filter::plan::plan;
use ferrovia::kernel::filter::{Base, BaseKind, Chain, Hook, Match, Name, Rule, Ruleset, Statement};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::kernel::nft::{Nft, NftClient, text};
use ferrovia::net::Family;
use ferrovia::testing::lab::{Lab, Options, Pod, wait};
use serde_json::json;

use super::super::contracts_nft::{listing, nft, programs};
use super::super::{SOON, with_lab};
use super::bridge::{PORT, ears, say, words};
use super::cut::apply;
use super::{Backend, only_from, policy, wait_for, web, write_pods};

/// Everything a pod sends gets one tag, or two: all with the number 0, which a receiver takes off.
const TAGS: [&str; 2] = [
    "action vlan push id 0 priority 1 protocol 802.1Q",
    "action vlan push id 0 priority 1 protocol 802.1Q pipe action vlan push id 0 protocol 802.1ad",
];

/// The station of a pod's link.
fn station(pod: &Pod) -> Result<String> {
    let line = pod.ns.command("ip -o link show dev eth0")?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    words.next().map(str::to_owned).context(line.clone())
}

/// The families in which a word of one pod arrives at the other.
fn arrives(lab: &Lab, from: &Pod, to: &Pod, ears: &[UdpSocket; 2]) -> Result<Vec<Family>> {
    from.ns.run(|| Family::ALL.iter().try_for_each(|of| say(1, (to.address(*of), PORT).into())))?;
    let heard = words(lab, to, ears)?;
    Ok(Family::ALL.into_iter().zip(heard).flat_map(|(family, words)| words.into_iter().map(move |_| family)).collect())
}

/// The table as `nft` lists it; empty where there is none.
fn table(lab: &Lab) -> Result<String> {
    Ok(lab.node(1)?.ns.command(&format!("nft list table bridge {FRAMES}")).unwrap_or_default())
}

/// How many frames the table has dropped.
fn dropped(lab: &Lab) -> Result<u64> {
    let listing = table(lab)?;
    let words: Vec<&str> = listing.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == "packets").map(|pair| Ok(pair[1].parse::<u64>()?)).sum()
}

both_backends!(a_tag_leads_around_no_policy);

fn a_tag_leads_around_no_policy(backend: Backend) {
    with_lab(Options { nodes: 2, ..Options::default() }, |lab| {
        write_pods(lab, &[])?;
        let daemons = lab.start_daemons(&backend.options())?;
        let (client, server, far) = (lab.pod("p11")?, lab.pod("p12")?, lab.pod("p21")?);
        let (ears, far_ears) = (ears(server)?, ears(far)?);
        let station = station(server)?;
        for family in Family::ALL {
            let address = server.address(family);
            client.ns.command(&format!("ip neigh replace {address} lladdr {station} dev eth0 nud permanent"))?;
        }
        client.ns.command("tc qdisc add dev eth0 clsact")?;
        let tag = |tags: &str| client.ns.command(&format!("tc filter add dev eth0 egress matchall {tags}"));
        let untag = || client.ns.command("tc filter del dev eth0 egress");

        ensure!(table(lab)?.is_empty(), "nobody is isolated");
        for tags in TAGS {
            tag(tags)?;
            let families = arrives(lab, client, server, &ears)?;
            ensure!(families == Family::ALL, "without policies {families:?} arrive with {tags}");
            let families = arrives(lab, client, far, &far_ears)?;
            ensure!(families == Family::ALL, "without policies {families:?} arrive at another node with {tags}");
            untag()?;
        }

        apply(lab, &daemons[0], &[only_from("p12", "nobody")])?;
        let families = arrives(lab, client, server, &ears)?;
        ensure!(families.is_empty(), "without a tag {families:?} arrive");
        for tags in TAGS {
            tag(tags)?;
            let before = dropped(lab)?;
            let families = arrives(lab, client, server, &ears)?;
            ensure!(families.is_empty(), "{families:?} arrive with {tags}");
            ensure!(dropped(lab)? >= before + 2, "the table has dropped them: {}", table(lab)?);
            untag()?;
        }
        let findings = daemons[0].admin("/debug/firewall/findings")?.1;
        ensure!(findings.is_empty(), "what is read back is what was written: {findings}");

        // What leaves the bridge has no tag any more when it is asked about.
        let egress = json!({"podSelector": {"matchLabels": {"app": "p11"}}, "policyTypes": ["Egress"]});
        apply(lab, &daemons[0], &[policy("out", egress)])?;
        for tags in TAGS {
            tag(tags)?;
            let families = arrives(lab, client, far, &far_ears)?;
            ensure!(families.is_empty(), "{families:?} leave the node with {tags}");
            untag()?;
        }

        // Somebody else takes the table away.
        lab.node(1)?.ns.command(&format!("nft delete table bridge {FRAMES}"))?;
        wait::until_true("the table is back", SOON, || Ok(table(lab)?.contains("drop")))?;

        // Who is allowed gets in without a tag.
        apply(lab, &daemons[0], &[only_from("p12", "p11")])?;
        for family in Family::ALL {
            wait_for(lab, "pods reach each other", "p11", web(lab, "p12", family)?, true)?;
        }
        apply(lab, &daemons[0], &[])?;
        ensure!(table(lab)?.is_empty(), "nobody is isolated any more");
        Ok(())
    });
}

#[test]
fn nft_lists_tables_of_bridges_as_the_text_form_loads_them() {
    guest!();
    let rule = |matches, statements| Rule { matches, statements, comment: Name::from("why it is there") };
    let base = Base { kind: BaseKind::Filter, hook: Hook::Forward, priority: -210 };
    let bridge = |name: &str| Match::InputBridge(Name::from(name));
    let rules = vec![
        rule(vec![bridge("cni0")], vec![Statement::Jump(Name::from("sub"))]),
        rule(vec![bridge("kube-bridge"), Match::EtherType(0x0800)], vec![Statement::Accept]),
    ];
    let sub = [0x8100, 0x88a8, 0x86dd].map(|tag| rule(vec![Match::EtherType(tag)], vec![Statement::Counter]));
    let chains = [
        (Name::from("forward"), Chain { base: Some(base), rules }),
        (Name::from("sub"), Chain { base: None, rules: sub.to_vec() }),
    ];
    let ruleset = Ruleset { chains: chains.into(), ..Ruleset::default() };
    run_in_new(|| {
        let mut client = NftClient::open().expect("a socket");
        let (ours, by_text) = (Name::from("ours-bridge"), Name::from("by-text-bridge"));
        client.commit(&plan(&ours, &ruleset, None)).expect("it is written");
        nft(&text::render(&by_text, &ruleset));
        assert_eq!(listing(&ours), listing(&by_text));
        assert_eq!(programs(&ours).len(), 5);
        assert_eq!(programs(&ours), programs(&by_text));
        for table in [ours, by_text] {
            let observed = client.dump(&table).expect("a dump");
            let left = plan(&table, &ruleset, observed.as_ref());
            assert!(left.is_empty(), "{left}");
            assert!(client.remove(&table).expect("it is removed") > 0);
            assert_eq!(client.dump(&table).expect("a dump"), None);
        }
    })
    .expect("a namespace");
}
