//! The kernel doors of the rooms, opened once at start: what is missing is one readable error.

use anyhow::Context;

use crate::kernel::conntrack::client::ConntrackClient;
use crate::kernel::ipvs::client::IpvsClient;
use crate::kernel::modules::{ModuleError, Modules};
use crate::kernel::nft::NftClient;
use crate::kernel::rtnl::RtnlClient;
use crate::kernel::sysctl::ProcSys;
use crate::proxy::reconciler::Kernel;

/// The real kernel, as the service proxy uses it.
pub(super) type ProxyKernel = Kernel<IpvsClient, NftClient, RtnlClient, ConntrackClient, ProcSys>;

/// What the service proxy needs of the kernel and can load by itself.
const MODULES: [&str; 5] = ["ip_vs", "nf_conntrack", "nf_conntrack_netlink", "nf_tables", "dummy"];

/// Open every door of the service proxy.
///
/// # Errors
/// The part of the kernel that is missing, and what to do about it.
pub(super) fn open() -> anyhow::Result<ProxyKernel> {
    let missing = load_modules();
    let advice = move || {
        if missing.is_empty() { "is CAP_NET_ADMIN missing?".to_owned() } else { missing.join("; ") }
    };
    let needed = |part: &str| format!("the service proxy cannot reach {part} in the kernel: {}", advice());
    Ok(Kernel {
        ipvs: IpvsClient::open().with_context(|| needed("IPVS"))?,
        nft: NftClient::open().with_context(|| needed("nftables"))?,
        rtnl: RtnlClient::open().with_context(|| needed("links and routes"))?,
        conntrack: ConntrackClient::open().with_context(|| needed("connection tracking"))?,
        sysctl: ProcSys::default(),
    })
}

/// Load what is not there. A failure counts only if the part is missing when it is used: the list of modules may be out
/// of reach while the kernel has everything built in, or loads it by itself.
fn load_modules() -> Vec<String> {
    let modules = Modules::of_this_kernel();
    let mut reasons = Vec::new();
    for module in MODULES {
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
