//! The whole configuration, cut into the small ones the rooms need.

use std::time::Duration;

use crate::config::{self, Config, VipBinding};
use crate::kernel::filter::Inside;
use crate::kernel::ipvs::Timeouts;
use crate::net::Family;
use crate::{firewall, proxy, routing};

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

/// What the firewall needs.
pub fn firewall_config(config: &Config) -> firewall::Config {
    firewall::Config {
        default_deny: config.firewall.default_deny,
        legacy_isolation: config.firewall.legacy_isolation,
        log_group: Some(firewall::LOG_GROUP),
        inside: Inside::Own,
        drop_tagged: true,
    }
}

/// What the router needs.
pub fn routing_config(config: &Config) -> routing::config::Config {
    use routing::config as room;
    let (settings, addresses) = (&config.router, &config.addresses);
    let bfd = |bfd: config::Bfd| room::Bfd {
        port: bfd.port,
        detection_multiplier: bfd.detection_multiplier,
        desired_min_tx: bfd.desired_min_tx,
        required_min_rx: bfd.required_min_rx,
    };
    let peer = |peer: &config::Peer| room::FlagPeer {
        address: peer.address,
        asn: peer.asn,
        port: peer.port,
        password: peer.password.as_ref().map(|secret| room::Password::new(secret.reveal().as_bytes())),
    };
    room::Config {
        cluster_asn: settings.cluster_asn,
        full_mesh: settings.full_mesh,
        ibgp: settings.ibgp,
        router_id: match settings.router_id {
            config::RouterId::NodeAddress => room::RouterId::NodeAddress,
            config::RouterId::Generate => room::RouterId::Generate,
            config::RouterId::Fixed(id) => room::RouterId::Fixed(id),
        },
        bgp_port: settings.bgp_port,
        hold_time: settings.hold_time,
        graceful_restart: settings.graceful_restart.map(|restart| room::GracefulRestart {
            restart_time: restart.restart_time,
            deferral_time: restart.deferral_time,
        }),
        peers: settings.peers.iter().map(peer).collect(),
        multihop_ttl: settings.multihop_ttl,
        override_next_hop: settings.override_next_hop,
        advertise_cluster_ip: settings.advertise_cluster_ip,
        advertise_external_ip: settings.advertise_external_ip,
        advertise_load_balancer_ip: settings.advertise_load_balancer_ip,
        advertise_pod_cidr: settings.advertise_pod_cidr,
        bfd: settings.bfd.map(bfd),
        bfd_defaults: bfd(settings.bfd_defaults),
        overlay: match settings.overlay {
            config::OverlayScope::Off => room::OverlayScope::Off,
            config::OverlayScope::OtherSubnets => room::OverlayScope::OtherSubnets,
            config::OverlayScope::All => room::OverlayScope::All,
        },
        encapsulation: match settings.encapsulation {
            config::Encapsulation::Ipip => room::Encapsulation::Ipip,
            config::Encapsulation::Fou { port } => room::Encapsulation::Fou { port },
        },
        pod_egress: settings.pod_egress,
        cluster_ip_ranges: addresses.cluster_ip_ranges.clone(),
        external_ip_ranges: addresses.external_ip_ranges.clone(),
        load_balancer_ip_ranges: addresses.load_balancer_ip_ranges.clone(),
        strict_external_ips: addresses.strict_external_ip_validation,
        allowed_imports: settings.allowed_imports.clone(),
        advertise_style: match settings.advertise_style {
            config::AdvertiseStyle::Node => routing::speakers::Style::Node,
            config::AdvertiseStyle::Speakers => routing::speakers::Style::Speakers,
        },
        // Checked when the flags were read.
        speaker_selector: routing::speakers::LabelSelector::parse(&settings.speaker_selector).unwrap_or_default(),
        return_path: if settings.return_path {
            routing::return_path::Mode::Peer
        } else {
            routing::return_path::Mode::Off
        },
        graceful_shutdown: settings.graceful_shutdown,
        drain: drain_settings(&settings.drain),
        auto_mtu: settings.auto_mtu,
        ipv6: config.families.contains(&Family::V6),
    }
}

fn drain_settings(drain: &config::Drain) -> routing::drain::Settings {
    use routing::drain::Signal;
    let signal = |signal: &config::DrainSignal| match signal {
        config::DrainSignal::Annotation => Signal::Annotation,
        config::DrainSignal::Shutdown => Signal::Shutdown,
        config::DrainSignal::Taint => Signal::Taint,
        config::DrainSignal::Cordon => Signal::Cordon,
    };
    routing::drain::Settings {
        signals: drain.signals.iter().map(signal).collect(),
        taints: drain.taints.clone(),
        tag: drain.tag,
        settle: drain.settle,
    }
}

/// The configuration holds whole seconds that fit.
fn whole_seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)
}
