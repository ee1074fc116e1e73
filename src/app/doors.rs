//! The kernel doors of the rooms, opened once at start: what is missing is one readable error.

use anyhow::Context;

use super::backend::{Found, NodeTables};
use crate::config::{Encapsulation, OverlayScope, RouterConfig};
use crate::kernel::conntrack::client::ConntrackClient;
use crate::kernel::fou::FouClient;
use crate::kernel::ipvs::client::IpvsClient;
use crate::kernel::modules::{ModuleError, Modules};
use crate::kernel::rtnl::RtnlClient;
use crate::kernel::sysctl::ProcSys;
use crate::proxy::reconciler::Kernel;

/// The real kernel, as the service proxy uses it.
pub(super) type ProxyKernel = Kernel<IpvsClient, NodeTables, RtnlClient, ConntrackClient, ProcSys>;

/// The real kernel, as the router uses it.
pub(super) type RouterKernel = crate::routing::reconciler::Kernel<NodeTables, RtnlClient, FouClient, ProcSys>;

/// What the service proxy needs of the kernel and can load by itself.
const MODULES: [&str; 5] = ["ip_vs", "nf_conntrack", "nf_conntrack_netlink", "nf_tables", "dummy"];

/// Open every door of the service proxy.
///
/// # Errors
/// The part of the kernel that is missing, and what to do about it.
pub(super) fn open(tables: &Found) -> anyhow::Result<ProxyKernel> {
    let missing = load_modules(&MODULES);
    let advice = move || {
        if missing.is_empty() { "is CAP_NET_ADMIN missing?".to_owned() } else { missing.join("; ") }
    };
    let needed = |part: &str| format!("the service proxy cannot reach {part} in the kernel: {}", advice());
    Ok(Kernel {
        ipvs: IpvsClient::open().with_context(|| needed("IPVS"))?,
        nft: tables.open().with_context(|| needed("the packet filter"))?,
        rtnl: RtnlClient::open().with_context(|| needed("links and routes"))?,
        conntrack: ConntrackClient::open().with_context(|| needed("connection tracking"))?,
        sysctl: ProcSys::default(),
    })
}

/// The real kernel, as the firewall uses it.
pub(super) type FirewallKernel = crate::firewall::reconciler::Kernel<NodeTables, RtnlClient, ConntrackClient, ProcSys>;

/// What the firewall needs of the kernel and can load by itself.
const FIREWALL_MODULES: [&str; 5] =
    ["nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nfnetlink_log", "br_netfilter"];

/// Open every door of the firewall.
///
/// # Errors
/// The part of the kernel that is missing, and what to do about it.
pub(super) fn open_firewall(tables: &Found) -> anyhow::Result<FirewallKernel> {
    let missing = load_modules(&FIREWALL_MODULES);
    let advice = move || {
        if missing.is_empty() { "is CAP_NET_ADMIN missing?".to_owned() } else { missing.join("; ") }
    };
    let needed = |part: &str| format!("the firewall cannot reach {part} in the kernel: {}", advice());
    Ok(FirewallKernel {
        nft: tables.open().with_context(|| needed("the packet filter"))?,
        rtnl: RtnlClient::open().with_context(|| needed("routes"))?,
        conntrack: ConntrackClient::open().with_context(|| needed("connection tracking"))?,
        sysctl: ProcSys::default(),
    })
}

/// What the router can load by itself. Modules for tunnels are loaded where the kernel does not do it.
const ROUTER_MODULES: [&str; 5] = ["nf_tables", "nft_chain_nat", "br_netfilter", "ipip", "ip6_tunnel"];

/// Modules for tunnels in UDP.
const FOU_MODULES: [&str; 2] = ["fou", "fou6"];

/// Open every door of the router.
///
/// # Errors
/// The part of the kernel that is missing, and what to do about it.
pub(super) fn open_router(config: &RouterConfig, tables: &Found) -> anyhow::Result<RouterKernel> {
    let tunnels = config.overlay != OverlayScope::Off;
    let mut modules: Vec<&str> = ROUTER_MODULES.into_iter().filter(|name| tunnels || !name.starts_with("ip")).collect();
    if tunnels && matches!(config.encapsulation, Encapsulation::Fou { .. }) {
        modules.extend(FOU_MODULES);
    }
    let missing = load_modules(&modules);
    let advice = move || {
        if missing.is_empty() { "is CAP_NET_ADMIN missing?".to_owned() } else { missing.join("; ") }
    };
    let needed = |part: &str| format!("the router cannot reach {part} in the kernel: {}", advice());
    Ok(RouterKernel {
        nft: tables.open().with_context(|| needed("the packet filter"))?,
        rtnl: RtnlClient::open().with_context(|| needed("links and routes"))?,
        fou: FouClient::open().with_context(|| needed("tunnel ports"))?,
        sysctl: ProcSys::default(),
    })
}

/// Load what is not there. A failure counts only if the part is missing when it is used: the list of modules may be out
/// of reach while the kernel has everything built in, or loads it by itself.
fn load_modules(names: &[&str]) -> Vec<String> {
    let modules = Modules::of_this_kernel();
    let mut reasons = Vec::new();
    for module in names {
        let Err(error) = modules.load(module) else { continue };
        reasons.push(error.to_string());
        if matches!(error, ModuleError::NoList { .. }) {
            // The same for all the others.
            break;
        }
    }
    for reason in &reasons {
        tracing::info!(reason, "could not load a kernel module, which the kernel may have built in or load by itself");
    }
    reasons
}
