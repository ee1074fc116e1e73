//! The whole configuration, cut into the small ones the rooms need.

use std::time::Duration;

use crate::config::{Config, VipBinding};
use crate::kernel::ipvs::Timeouts;
use crate::proxy;

/// What the service proxy needs.
pub fn proxy_config(config: &Config) -> proxy::Config {
    let (settings, addresses) = (&config.proxy, &config.addresses);
    proxy::Config {
        masquerade_all: settings.masquerade_all,
        node_port_all_addresses: settings.node_port_bind_all,
        node_port_range: (*addresses.node_port_range.start(), *addresses.node_port_range.end()),
        input_firewall: settings.permit_all,
        graceful_termination: settings.graceful_termination,
        graceful_period: settings.graceful_period,
        excluded: settings.excluded_cidrs.clone(),
        cluster_ip_ranges: addresses.cluster_ip_ranges.clone(),
        external_ip_ranges: addresses.external_ip_ranges.clone(),
        load_balancer_ip_ranges: addresses.load_balancer_ip_ranges.clone(),
        strict_external_ips: addresses.strict_external_ip_validation,
        vip_binding: match settings.vip_binding {
            VipBinding::Auto => proxy::VipBinding::Auto,
            VipBinding::Address => proxy::VipBinding::Address,
            VipBinding::Route => proxy::VipBinding::Route,
        },
        runtime_endpoint: settings.runtime_endpoint.is_some(),
        timeouts: Timeouts {
            tcp: whole_seconds(settings.tcp_timeout),
            tcp_fin: whole_seconds(settings.tcp_fin_timeout),
            udp: whole_seconds(settings.udp_timeout),
        },
    }
}

/// The configuration holds whole seconds that fit.
fn whole_seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)
}
