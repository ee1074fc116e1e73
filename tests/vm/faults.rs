//! What happens when somebody else, or fate, interferes: kills, foreign changes, restarts, other people's state.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ferrovia::net::{Family, Protocol};
use ferrovia::testing::lab::{
    Connection, Daemon, DaemonOptions, Lab, Namespace, Options, ServiceSpec, daemon, traffic, wait,
};

use super::{SOON, with_daemons, with_lab};

/// Programming thousands of services takes its time where everything is emulated.
const BULK: Duration = Duration::from_secs(300);
/// Virtual servers of the bulk test.
const N_VIRTUAL_SERVERS: u16 = 2000;
/// Ports of each Service there. Many: reading YAML is not what is tested, and a debug build in an emulated guest takes
/// 25 ms for an object.
const PORTS: u16 = 50;

fn one_node() -> Options {
    Options { nodes: 1, ..Options::default() }
}

fn two_nodes() -> Options {
    Options { nodes: 2, ..Options::default() }
}

fn web() -> ServiceSpec {
    let addresses: [IpAddr; 2] = ["10.96.0.10", "fd00:96::10"].map(|text| text.parse().expect("an address"));
    ServiceSpec::new("web", &addresses).port(Protocol::Tcp, 80).node_port(30080)
}

/// The lines of the kernel's IPVS table without connection counts, sorted: what a daemon is responsible for.
fn table(ns: &Namespace) -> Result<BTreeSet<String>> {
    ns.run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/ip_vs").context("read the IPVS table")?;
        let mut virtual_server = String::new();
        let mut lines = BTreeSet::new();
        for line in text.lines().skip(3) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["->", address, forwarding, weight, ..] = words[..] {
                lines.insert(format!("{virtual_server} {address} {forwarding} {weight}"));
            } else {
                virtual_server = words.join(" ");
                lines.insert(virtual_server.clone());
            }
        }
        Ok(lines)
    })
}

/// Virtual servers and real servers of the table.
fn counts(ns: &Namespace) -> Result<(usize, usize)> {
    let table = table(ns)?;
    let real_servers = table.iter().filter(|line| line.contains(" Masq ")).count();
    Ok((table.len() - real_servers, real_servers))
}

/// Everything a daemon leaves in a node: IPVS, the dummy link, local routes, its nftables tables without counters.
fn fingerprint(ns: &Namespace) -> Result<String> {
    let mut text: String = table(ns)?.into_iter().map(|line| line + "\n").collect();
    for command in ["ip -o addr show dev kube-dummy-if", "ip route show table local", "ip -6 route show table local"] {
        // A link that was made again has another link-local address.
        let output = ns.command(command)?;
        let mut lines: Vec<String> = output.lines().filter(|line| !line.contains("fe80:")).map(str::to_owned).collect();
        lines.sort();
        text.push_str(&lines.join("\n"));
    }
    text.push_str(&ns.command("nft --stateless --handle list ruleset")?);
    Ok(text)
}

/// The daemon's own nftables tables, as `family name`.
fn own_tables(ns: &Namespace) -> Result<Vec<String>> {
    let tables = ns.command("nft list tables")?;
    Ok(tables
        .lines()
        .filter_map(|line| line.strip_prefix("table "))
        .filter(|t| t.contains("ferrovia"))
        .map(str::to_owned)
        .collect())
}

/// Services of [`PORTS`] ports and two endpoints each, `n` virtual servers in all, in files of 100.
fn write_many(lab: &Lab, n: u16) -> Result<()> {
    let pods = lab.pods(&["p11", "p12"])?;
    let n_services = n / PORTS;
    for first in (0..n_services).step_by(100) {
        let services: Vec<ServiceSpec> = (first..n_services.min(first + 100))
            .map(|i| {
                let [high, low] = i.to_be_bytes();
                let service = ServiceSpec::new(&format!("many-{i}"), &[IpAddr::from([10, 96, 100 + high, low])]);
                (0..PORTS).fold(service, |service, port| service.port(Protocol::Tcp, 80 + port))
            })
            .collect();
        lab.manifests().expose_many(&format!("many-{first}"), &services, &pods)?;
    }
    Ok(())
}

#[test]
fn killed_at_any_point_of_a_cold_start_the_next_start_finishes_the_work() {
    with_lab(one_node(), |lab| {
        write_many(lab, N_VIRTUAL_SERVERS)?;
        let ns = lab.node(1)?.ns.clone();
        // In 6.12 the first calibration of the rate estimators can oops while thousands of real servers appear.
        ns.command("modprobe ip_vs")?;
        ns.set_sysctls(&[("net/ipv4/vs/run_estimation", "0")])?;
        let all = (usize::from(N_VIRTUAL_SERVERS), 2 * usize::from(N_VIRTUAL_SERVERS));
        let mut interrupted = 0;
        let options = DaemonOptions::with(&["--cache-sync-timeout=10m"]);
        // Kill as soon as this much is there; each start goes on where the last one died.
        for at_least in [1, 600, 1400] {
            let mut daemon = lab.start_daemon(1, &options)?;
            let now = wait::until(&format!("{at_least} virtual servers"), BULK, || {
                let now = counts(&ns)?;
                ensure!(now.0 >= at_least, "{now:?}");
                Ok(now)
            })?;
            daemon.kill()?;
            interrupted += usize::from(now != all && counts(&ns)? != all);
        }
        ensure!(interrupted > 0, "the daemon was always quicker than the kill: the test proved nothing");
        let _daemon = lab.start_daemon(1, &options)?;
        wait::until("everything is programmed", BULK, || {
            let now = counts(&ns)?;
            ensure!(now == all, "{now:?} of {all:?}");
            Ok(())
        })?;
        for address in ["10.96.100.0:80", "10.96.100.20:99", "10.96.100.39:129"] {
            traffic::http(&ns, address.parse()?, 2)?;
        }
        Ok(())
    });
}

#[test]
fn foreign_changes_are_repaired() {
    with_daemons(two_nodes(), &["--ipvs-sync-period=2s"], |lab, _| {
        lab.manifests().expose(&web(), &lab.pods(&["p11", "p21"])?)?;
        let ns = lab.node(1)?.ns.clone();
        wait::until("the service answers", SOON, || traffic::http(&ns, "10.96.0.10:80".parse()?, 1))?;
        let right = wait::until("the node is settled", SOON, || settled(&ns))?;

        type Sabotage = (&'static str, fn(&Namespace) -> Result<()>);
        let sabotages: [Sabotage; 8] = [
            ("a virtual server is deleted", |ns| ns.command("ipvsadm -D -t 10.96.0.10:80").map(drop)),
            ("a real server is deleted", |ns| ns.command("ipvsadm -d -t 10.96.0.10:80 -r 10.244.2.11:8080").map(drop)),
            ("a scheduler is changed", |ns| ns.command("ipvsadm -E -t 10.96.0.10:80 -s lc -p 60").map(drop)),
            ("a weight is changed", |ns| {
                ns.command("ipvsadm -e -t 10.96.0.10:80 -r 10.244.2.11:8080 -m -w 7").map(drop)
            }),
            ("everything is flushed", |ns| ns.command("ipvsadm -C").map(drop)),
            ("a VIP is removed", |ns| ns.command("ip addr del 10.96.0.10/32 dev kube-dummy-if").map(drop)),
            ("the dummy link is removed", |ns| ns.command("ip link del kube-dummy-if").map(drop)),
            ("the tables are deleted", |ns| {
                own_tables(ns)?.iter().try_for_each(|table| ns.command(&format!("nft delete table {table}")).map(drop))
            }),
        ];
        for (what, sabotage) in sabotages {
            sabotage(&ns).context(what)?;
            wait::until(&format!("repaired after {what}"), SOON, || {
                let now = without_handles(&fingerprint(&ns)?);
                ensure!(now == right, "{what}: it is\n{now}\ninstead of\n{right}");
                Ok(())
            })?;
        }
        for (key, value) in [("net/ipv4/vs/conntrack", "0"), ("net/ipv4/conf/eth0/arp_ignore", "0")] {
            let right = ns.sysctl(key)?;
            ensure!(right != value, "{key} is {value} already");
            ns.set_sysctls(&[(key, value)])?;
            wait::until_true(&format!("{key} is set again"), SOON, || Ok(ns.sysctl(key)? == right))?;
        }
        traffic::http(&ns, "10.96.0.10:80".parse()?, 4)?;
        Ok(())
    });
}

/// The node's fingerprint once two looks in a row agree.
fn settled(ns: &Namespace) -> Result<String> {
    let first = fingerprint(ns)?;
    std::thread::yield_now();
    let second = fingerprint(ns)?;
    ensure!(first == second && first.contains("0A60000A:0050"), "it still changes");
    Ok(without_handles(&first))
}

/// Handles and interface indexes differ when a thing was made again.
fn without_handles(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.split(" # handle").next().unwrap_or(line);
        match line.split_once(": kube-dummy-if") {
            Some((index, rest)) if index.chars().all(|digit| digit.is_ascii_digit()) => {
                format!("kube-dummy-if{rest}\n")
            }
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

#[test]
fn foreign_state_survives_start_sync_and_cleanup() {
    with_lab(one_node(), |lab| {
        let ns = lab.node(1)?.ns.clone();
        ns.feed("ipvsadm -R", "-A -t 192.0.2.10:80 -s wrr\n-a -t 192.0.2.10:80 -r 10.244.1.11:8080 -m -w 5\n")?;
        ns.ip("link add mine type dummy\nlink set mine up\naddr add 192.0.2.10/32 dev mine\n\
               route add local 192.0.2.11 dev mine table local\n")?;
        ns.feed(
            "nft -f -",
            "table inet mine {\n chain c {\n type filter hook input priority 5; policy accept;\n }\n}\n",
        )?;
        let foreign = |ns: &Namespace| -> Result<String> {
            let servers: Vec<String> = table(ns)?.into_iter().filter(|line| line.contains("C000020A")).collect();
            let rules = ns.command("nft list table inet mine")?;
            Ok(format!(
                "{servers:?}{}{}{rules}",
                ns.command("ip -o addr show dev mine")?,
                ns.command("ip route show table local dev mine")?
            ))
        };
        let before = foreign(&ns)?;
        ensure!(before.contains("10.244.1.11") || before.contains("0AF4010B"), "the foreign server is there: {before}");

        let flags = ["--excluded-cidrs=192.0.2.0/24", "--ipvs-sync-period=1s"];
        let mut daemon = lab.start_daemon(1, &DaemonOptions::with(&flags))?;
        daemon.wait_ready()?;
        lab.manifests().expose(&web(), &lab.pods(&["p11"])?)?;
        wait::until("the service answers", SOON, || traffic::http(&ns, "10.96.0.10:80".parse()?, 1))?;
        wait::throughout("the foreign state stays over several syncs", Duration::from_secs(3), || {
            Ok(foreign(&ns)? == before)
        })?;
        traffic::http(&ns, "192.0.2.10:80".parse()?, 1).context("the foreign virtual server forwards")?;
        daemon.stop()?;
        traffic::http(&ns, "10.96.0.10:80".parse()?, 2).context("forwarding goes on without the daemon")?;

        let mut arguments = Daemon::flags("n1", lab.manifests().path(), lab.directory());
        arguments.extend(["--excluded-cidrs=192.0.2.0/24".into(), "--cleanup-config".into()]);
        let (status, output) = daemon::run_once(&ns, &arguments)?;
        ensure!(status.success(), "cleanup ended with {status}:\n{output}");
        ensure!(foreign(&ns)? == before, "cleanup changed foreign state:\n{before}\n{}", foreign(&ns)?);
        ensure!(counts(&ns)? == (1, 1), "cleanup left {:?}", table(&ns)?);
        ensure!(own_tables(&ns)?.is_empty(), "cleanup left {:?}", own_tables(&ns)?);
        ensure!(!ns.command("ip -o link")?.contains("kube-dummy-if"), "cleanup left the dummy link");
        Ok(())
    });
}

#[test]
fn a_restart_with_the_right_state_writes_nothing() {
    with_lab(two_nodes(), |lab| {
        let service = web()
            .external_ips(&["198.51.101.10".parse()?])
            .load_balancer(&["198.51.100.10".parse()?, "2001:db8:64::10".parse()?])
            .affinity(600)
            .scheduler("mh");
        lab.manifests().expose(&service, &lab.pods(&["p11", "p12", "p21"])?)?;
        write_many(lab, 50)?;
        let ns = lab.node(1)?.ns.clone();
        let mut daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        daemon.wait_ready()?;
        wait::until("everything is there", SOON, || {
            let (n_servers, _) = counts(&ns)?;
            // 50, and by cluster IP, node port and load balancer in both families, by external IP in one.
            ensure!(n_servers == 50 + 7, "{n_servers} virtual servers");
            Ok(())
        })?;
        ensure!(daemon.metric("ferrovia_ops_total", &[])? > 0.0, "the first start wrote, and must say so");
        daemon.stop()?;
        let before = fingerprint(&ns)?;

        let mut connection = Connection::open(&ns, "10.96.0.10:80".parse()?)?;
        let mut daemon = lab.start_daemon(1, &DaemonOptions::with(&["--ipvs-sync-period=1s"]))?;
        daemon.wait_ready()?;
        wait::throughout("nothing is written", Duration::from_secs(3), || {
            connection.request()?;
            Ok(daemon.metric("ferrovia_ops_total", &[])? == 0.0)
        })?;
        let after = fingerprint(&ns)?;
        ensure!(before == after, "a restart changed\n{before}\ninto\n{after}");
        Ok(())
    });
}

#[test]
fn a_service_deleted_while_the_daemon_was_down_is_removed_at_start() {
    with_lab(one_node(), |lab| {
        lab.manifests().expose(&web(), &lab.pods(&["p11"])?)?;
        write_many(lab, 50)?;
        let ns = lab.node(1)?.ns.clone();
        let mut daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        daemon.wait_ready()?;
        wait::until_true("all are there", SOON, || Ok(counts(&ns)?.0 == 50 + 4))?;
        daemon.kill()?;
        lab.manifests().delete("web")?;
        let mut daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        daemon.wait_ready()?;
        wait::until_true("the deleted one is gone", SOON, || Ok(counts(&ns)?.0 == 50))?;
        let addresses = ns.command("ip -o addr show dev kube-dummy-if")?;
        ensure!(!addresses.contains("10.96.0.10/"), "its VIP is still bound: {addresses}");
        Ok(())
    });
}

/// What kube-router leaves on a node with one Service that lives on and one that does not.
fn as_kube_router_left_it(ns: &Namespace) -> Result<()> {
    ns.ip("link add kube-dummy-if type dummy\nlink set kube-dummy-if up\n\
         addr add 10.96.0.10/32 dev kube-dummy-if scope link\n\
         route replace local 10.96.0.10 dev kube-dummy-if table local proto kernel scope host src 192.168.10.11\n\
         addr add 10.96.0.99/32 dev kube-dummy-if scope link\n\
         route replace local 10.96.0.99 dev kube-dummy-if table local proto kernel scope host src 192.168.10.11\n\
         addr add fd00:96::10/128 dev kube-dummy-if nodad\n")?;
    let mut lines = String::new();
    for vip in ["10.96.0.10:80", "10.96.0.99:80", "192.168.10.11:30080"] {
        lines.push_str(&format!(
            "-A -t {vip} -s rr\n-a -t {vip} -r 10.244.1.12:8080 -m -w 1\n-a -t {vip} -r 10.244.2.11:8080 -m -w 1\n"
        ));
    }
    lines.push_str("-A -t [fd00:96::10]:80 -s rr\n-a -t [fd00:96::10]:80 -r [fd00:244:2::11]:8080 -m -w 1\n");
    ns.feed("ipvsadm -R", &lines)?;
    ns.set_sysctls(&[
        ("net/ipv4/vs/conntrack", "1"),
        ("net/ipv4/vs/expire_nodest_conn", "1"),
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
    ])?;
    ns.feed(
        "ipset restore",
        "create kube-router-svip hash:ip timeout 0\nadd kube-router-svip 10.96.0.10\n\
         create kube-router-svip-prt hash:ip,port timeout 0\nadd kube-router-svip-prt 10.96.0.10,tcp:80\n",
    )?;
    ns.feed(
        "iptables-nft-restore --noflush",
        "*filter\n:KUBE-ROUTER-SERVICES - [0:0]\n\
         -A INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES\n\
         -A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT\n\
         -A KUBE-ROUTER-SERVICES -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n\
         *nat\n:KUBE-ROUTER-HAIRPIN - [0:0]\n-A POSTROUTING -m ipvs --vdir ORIGINAL -j KUBE-ROUTER-HAIRPIN\n\
         -A KUBE-ROUTER-HAIRPIN -s 10.244.1.12/32 -d 10.244.1.12/32 -m ipvs --vaddr 10.96.0.10 --vport 80 \
         -j SNAT --to-source 10.96.0.10\nCOMMIT\n",
    )
    .map(drop)
}

#[test]
fn state_left_by_kube_router_is_taken_over_without_losing_a_connection() {
    with_lab(two_nodes(), |lab| {
        let ns = lab.node(1)?.ns.clone();
        as_kube_router_left_it(&ns)?;
        let pod = lab.pod("p11")?.ns.clone();
        let vip = "10.96.0.10:80".parse()?;
        let mut open = [Connection::open(&pod, vip)?, Connection::open(&pod, vip)?];
        let pods: Vec<String> = open.iter_mut().map(|c| Ok(c.request()?.pod)).collect::<Result<_>>()?;

        lab.manifests().expose(&web(), &lab.pods(&["p12", "p21"])?)?;
        let daemon = lab.start_daemon(1, &DaemonOptions::default())?;
        // All through the take-over: old connections answer, new ones are accepted.
        wait::until("the daemon is ready", BULK, || {
            for (connection, pod) in open.iter_mut().zip(&pods) {
                let reply = connection.request().map(|reply| reply.pod);
                if reply.as_ref().ok() != Some(pod) {
                    return Ok(Err(anyhow::anyhow!("an open connection to {pod} now says {reply:?}")));
                }
            }
            if let Err(error) = traffic::http(&pod, vip, 1) {
                return Ok(Err(error.context("a new connection failed during the take-over")));
            }
            match daemon.health("/readyz")? {
                (200, _) => Ok(Ok(())),
                (status, _) => bail!("/readyz answers {status}"),
            }
        })??;
        wait::until("the stale Service is removed, the new node port answers", SOON, || {
            let table = table(&ns)?;
            ensure!(!table.iter().any(|line| line.contains("0A600063:")), "10.96.0.99 is still served: {table:?}");
            let addresses = ns.command("ip -o addr show dev kube-dummy-if")?;
            ensure!(!addresses.contains("10.96.0.99"), "10.96.0.99 is still bound");
            ensure!(addresses.contains("10.96.0.10/32"), "10.96.0.10 is no longer bound");
            Ok(())
        })?;
        for (connection, pod) in open.iter_mut().zip(&pods) {
            ensure!(connection.request()?.pod == *pod);
        }
        let v6 = format!("[{}]:30080", lab.node(1)?.address(Family::V6));
        wait::until("the IPv6 node port answers", SOON, || traffic::http(&lab.near, v6.parse()?, 2))?;
        wait::until("kube-router's chains are gone", SOON, || {
            let rules = ns.command("iptables-nft-save")?;
            ensure!(!rules.contains("KUBE-ROUTER"), "{rules}");
            Ok(())
        })?;
        for (connection, pod) in open.iter_mut().zip(&pods) {
            ensure!(connection.request()?.pod == *pod, "an open connection was lost with the chains");
        }
        Ok(())
    });
}

#[test]
fn two_services_with_one_external_ip_do_not_take_it_from_each_other() {
    with_daemons(one_node(), &[], |lab, _| {
        let shared = || Ok::<_, anyhow::Error>(["198.51.101.10".parse::<IpAddr>()?]);
        let a = ServiceSpec::new("a", &["10.96.0.20".parse()?]).port(Protocol::Tcp, 80).external_ips(&shared()?);
        let b = ServiceSpec::new("b", &["10.96.0.21".parse()?]).port(Protocol::Tcp, 81).external_ips(&shared()?);
        let pods = lab.pods(&["p11"])?;
        lab.manifests().expose(&a, &pods)?;
        lab.manifests().expose(&b, &pods)?;
        for port in [80, 81] {
            wait::until("both answer", SOON, || traffic::http(&lab.far, (shared()?[0], port).into(), 1))?;
        }
        lab.manifests().delete("a")?;
        wait::until_true("a is gone", SOON, || Ok(traffic::http(&lab.far, (shared()?[0], 80).into(), 1).is_err()))?;
        traffic::http(&lab.far, (shared()?[0], 81).into(), 2).context("b lost the shared address")?;
        lab.manifests().delete("b")?;
        let ns = &lab.node(1)?.ns;
        wait::until_true("the address is gone with its last user", SOON, || {
            Ok(!ns.command("ip -o addr show dev kube-dummy-if")?.contains("198.51.101.10"))
        })
    });
}
