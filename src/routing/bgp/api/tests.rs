use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use prost::Message as _;
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::adapt::{self, Version};
use super::handle::{Handle, Question};
use super::query::*;
use super::{message as m, schema, server, shown, text, typed};
use crate::net::{Asn, Family, Prefix};
use crate::routing::bgp::types::{AsPath, Attributes, NextHop, Origin, PeerKind, PeerRestart};

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn peer(now: Duration) -> PeerDetail {
    let counts = FamilyCounts { family: Family::V4, negotiated: true, received: 3, accepted: 2, advertised: 1 };
    let restart =
        PeerRestart { restarting: false, notification: true, restart_time: 90, families: vec![(Family::V4, true)] };
    let capabilities = vec![
        Capability::Multiprotocol(Family::V4),
        Capability::Multiprotocol(Family::V6),
        Capability::RouteRefresh,
        Capability::ExtendedNextHop,
        Capability::ExtendedMessage,
        Capability::GracefulRestart(restart),
        Capability::FourOctetAs(Asn(65001)),
        Capability::AddPath(vec![(Family::V4, true, true)]),
        Capability::EnhancedRefresh,
        Capability::LongLived(vec![(Family::V4, 3600)]),
    ];
    PeerDetail {
        row: PeerRow {
            address: address("172.26.6.2"),
            interface: None,
            asn: Some(Asn(64512)),
            state: SessionState::Established,
            admin: AdminState::Up,
            up_since: Some(now - Duration::from_secs(3_661)),
            down_since: None,
            families: vec![counts],
        },
        description: "rack".to_owned(),
        kind: PeerKind::Internal,
        local_asn: Asn(64512),
        router_id: Some(Ipv4Addr::new(172, 26, 6, 2)),
        local_address: Some(address("172.26.6.3")),
        remote_port: 179,
        passive: false,
        reflector_client: false,
        cluster_id: None,
        hold_time: 90,
        keepalive: 30,
        negotiated_hold_time: 90,
        negotiated_keepalive: 30,
        flops: 1,
        out_queue: 0,
        received: MessageCounts { open: 1, update: 2, keepalive: 3, ..MessageCounts::default() },
        sent: MessageCounts { open: 1, update: 4, keepalive: 5, ..MessageCounts::default() },
        remote_capabilities: capabilities[..3].to_vec(),
        local_capabilities: capabilities,
        bfd: None,
    }
}

fn row(hop: &str, local_pref: Option<u32>, best: bool, now: Duration) -> PathRow {
    let hop_address: Ipv4Addr = hop.parse().unwrap();
    let next_hop = NextHop::from(IpAddr::V4(hop_address));
    let mut attributes = Attributes::new(Origin::Igp, AsPath::empty(), next_hop);
    attributes.local_pref = local_pref;
    PathRow {
        attributes: attributes.into(),
        since: now - Duration::from_secs(61),
        best,
        withdrawn: false,
        stale: false,
        filtered: false,
        next_hop_invalid: false,
        source: None,
        received_id: 0,
        local_id: 1,
        uuid: None,
    }
}

fn rib(now: Duration) -> Vec<Destination> {
    let paths = vec![row("172.26.6.2", Some(100), true, now), row("172.26.6.4", None, false, now)];
    vec![Destination { prefix: prefix("10.254.0.0/24"), paths }]
}

/// A speaker that knows one peer and one prefix.
async fn scripted(mut asked: tokio::sync::mpsc::Receiver<Question>, now: Duration) {
    while let Some(question) = asked.recv().await {
        match question {
            Question::Global(answer) => drop(answer.send(Ok(speaker()))),
            Question::Peers(name, _, answer) => {
                let mut peers = vec![peer(now)];
                peers.retain(|peer| name.as_deref().is_none_or(|name| peer.row.is_named(name)));
                drop(answer.send(Ok(peers.into())));
            }
            Question::Paths(_, answer) => drop(answer.send(Ok(rib(now).into()))),
            Question::Table(_, _, answer) => {
                drop(answer.send(Ok(TableInfo { destinations: 1, paths: 2, accepted: 2 })));
            }
            Question::Command(command, answer) => {
                let done = match command {
                    Command::AddPath(..) => Ok(Done::Added([7; 16])),
                    Command::Reset(PeerChoice::One(name), _) => Err(Refusal::NotFound(format!("no peer {name}"))),
                    _ => Ok(Done::Yes),
                };
                drop(answer.send(done));
            }
            Question::Policies(answer) => drop(answer.send(Ok(Vec::new()))),
            Question::Sets(_, answer) => drop(answer.send(Ok(Vec::new()))),
            Question::Assignment(name, direction, answer) => drop(answer.send(Ok(Assignment {
                name: name.unwrap_or_else(|| "global".to_owned()),
                direction,
                policies: Vec::new(),
                default: Verdict::Accept,
            }))),
            Question::Watch(_, answer) => {
                let (news, reader) = tokio::sync::mpsc::channel(4);
                let _ = news.send(Event::PeerState(Box::new(peer(now)))).await;
                drop(answer.send(Ok(reader)));
            }
        }
    }
}

fn speaker() -> Global {
    Global {
        asn: Asn(64512),
        router_id: Ipv4Addr::new(172, 26, 6, 3),
        listen_port: Some(179),
        listen_addresses: vec![address("172.26.6.3")],
        multipath: true,
    }
}

async fn call<Q, A>(channel: &tonic::transport::Channel, path: &'static str, request: Q) -> Result<Vec<A>, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = grpc.server_streaming(Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
    let mut stream = answer.into_inner();
    let mut all = Vec::new();
    while let Some(one) = stream.message().await? {
        all.push(one);
    }
    Ok(all)
}

#[tokio::test]
async fn answers_both_majors_on_one_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (handle, asked) = Handle::new();
    tokio::spawn(scripted(asked, NOW));
    tokio::spawn(server::serve(listener, handle, std::future::pending()));
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();

    let ask = m::ListPeerRequest::default();
    let old: Vec<m::PeerResponse> = call(&channel, "/apipb.GobgpApi/ListPeer", ask.clone()).await.unwrap();
    let new: Vec<m::PeerResponse> = call(&channel, "/api.GoBgpService/ListPeer", ask).await.unwrap();
    let admin = |list: &[m::PeerResponse]| list[0].peer.as_ref().unwrap().state.as_ref().unwrap().admin_state;
    assert_eq!((admin(&old), admin(&new)), (0, 1));

    let rib: Vec<m::ListPathResponse> =
        call(&channel, "/api.GoBgpService/ListPath", m::ListPathRequest { table_type: 1, ..Default::default() })
            .await
            .unwrap();
    let paths = &rib[0].destination.as_ref().unwrap().paths;
    assert_eq!(paths[0].nlri_binary, [24, 10, 254, 0]);
    assert_eq!(paths[0].pattrs_binary.len(), 4);

    let reset = m::PeerActionRequest { address: "10.9.9.9".to_owned(), ..Default::default() };
    let status = call::<_, m::Empty>(&channel, "/apipb.GobgpApi/ResetPeer", reset).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no peer 10.9.9.9"));
    let status = call::<_, m::Empty>(&channel, "/apipb.GobgpApi/EnableMrt", m::Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("supported are GetBgp, ListPeer"), "{}", status.message());
}

#[test]
fn reads_a_route_to_add_in_both_shapes() {
    let inner = [8, 24, 18, 8, b'1', b'0', b'.', b'1', b'.', b'2', b'.', b'0'];
    let old = m::Any { type_url: "type.googleapis.com/apipb.IPAddressPrefix".to_owned(), value: inner.to_vec() };
    let new = [&[0x0a, 12][..], &inner].concat();
    assert_eq!(typed::prefix(Version::V3, &old.encode_to_vec()), Ok(prefix("10.1.2.0/24")));
    assert_eq!(typed::prefix(Version::V4, &new), Ok(prefix("10.1.2.0/24")));

    let hop = [&[0x22, 9, 0x0a, 7][..], b"0.0.0.0"].concat();
    let origin = vec![0x12, 0];
    let med = vec![0x2a, 2, 8, 5];
    let attributes = typed::attributes(Version::V4, &[origin, hop, med], &prefix("10.1.2.0/24")).unwrap();
    assert_eq!((attributes.origin, attributes.med), (Origin::Igp, Some(5)));
    assert_eq!(attributes.next_hop.address, address("0.0.0.0"));
}

#[test]
fn refuses_attributes_by_number_that_would_end_sessions() {
    let given = |flags: u8, code: u8| {
        let all = vec![0x0a, 8, 0x08, flags, 0x01, 0x10, code, 0x1a, 1, b'0'];
        typed::attributes(Version::V4, &[all], &prefix("10.1.2.0/24"))
    };
    // Numbers above 127 have two octets there: 0xc0 is c0 01.
    assert_eq!(given(0xc0, 99).unwrap().unknown[0].flags, 0xc0);
    let refusal = given(0x80 | 0x40, 5).unwrap_err();
    assert!(refusal.contains("attribute 5 has a message of its own"), "{refusal}");
}

#[test]
fn refuses_attributes_that_are_not_optional() {
    let refusal = typed::attributes(Version::V4, &[vec![0x0a, 3, 0x1a, 1, b'0']], &prefix("10.1.2.0/9")).unwrap_err();
    assert!(refusal.contains("attribute 0 with flags 0x00 is not optional"), "{refusal}");
}

#[test]
fn refuses_a_binary_prefix_that_is_cut_short() {
    assert_eq!(typed::prefix_from_raw(&[24, 10, 254, 0], false), Ok(prefix("10.254.0.0/24")));
    assert!(typed::prefix_from_raw(&[24, 10, 254], false).is_err());
    assert!(typed::prefix_from_raw(&[33, 1, 2, 3, 4, 5], false).is_err());
    assert!(typed::prefix_from_raw(&[], true).is_err());
}

#[test]
fn enums_are_one_higher_in_the_fourth_major() {
    assert_eq!(adapt::table(Version::V3, 2, "x"), Ok(Table::AdjIn("x".to_owned())));
    assert_eq!(adapt::table(Version::V4, 3, "x"), Ok(Table::AdjIn("x".to_owned())));
    assert_eq!(adapt::table(Version::V4, 0, ""), Ok(Table::Global));
    assert!(adapt::table(Version::V3, 4, "red").is_err());
}

#[test]
fn lists_peers_as_in_the_labs() {
    let golden = "\
Peer          AS  Up/Down State       |#Received  Accepted
172.26.6.2 64512 01:01:01 Establ      |        3         2
";
    assert_eq!(text::neighbors(&[adapt::peer(Version::V3, &peer(NOW))], None, NOW), golden);
}

#[test]
fn a_peer_is_shown_with_all_it_said() {
    let shown = text::neighbor(&adapt::peer(Version::V3, &peer(NOW)), None, NOW);
    let golden = "\
BGP neighbor is 172.26.6.2, remote AS 64512
  BGP version 4, remote router ID 172.26.6.2
  BGP state = ESTABLISHED, up for 01:01:01
  BGP OutQ = 0, Flops = 1
  Hold time is 90, keepalive interval is 30 seconds
  Configured hold time is 90, keepalive interval is 30 seconds
  \n  Neighbor capabilities:
    multiprotocol:
        ipv4-unicast:\tadvertised and received
        ipv6-unicast:\tadvertised and received
    route-refresh:\tadvertised and received
    extended-nexthop:\tadvertised
        Local:  nlri: ipv4-unicast, nexthop: ipv6
    UnknownCapability(6):\tadvertised
    graceful-restart:\tadvertised
        Local: restart time 90 sec, notification flag set
\t    ipv4-unicast, forward flag set
    4-octet-as:\tadvertised
    add-path:\tadvertised
      Local:
         ipv4-unicast:\treceive/send
    enhanced-route-refresh:\tadvertised
    long-lived-graceful-restart:\tadvertised
        Local:
\t    ipv4-unicast, restart time 3600 sec
  Message statistics:
                         Sent       Rcvd
";
    assert!(shown.starts_with(golden), "{shown}");
    assert!(
        shown
            .ends_with("    Advertised:             1\n    Received:               3\n    Accepted:               2\n")
    );
}

#[test]
fn a_peer_of_either_major_is_shown_alike() {
    let mut peer = peer(NOW);
    // The third major has no message of its own for this one.
    peer.local_capabilities.retain(|capability| *capability != Capability::ExtendedMessage);
    let of = |version| schema::as_v3(version, schema::PEER, &adapt::peer(version, &peer).encode_to_vec());
    assert_eq!(schema::json(schema::PEER, &of(Version::V3)), schema::json(schema::PEER, &of(Version::V4)));
    let shown = |version| text::neighbor(&m::Peer::decode(of(version).as_slice()).unwrap(), None, NOW);
    assert_eq!(shown(Version::V3), shown(Version::V4));
}

#[test]
fn lists_routes_as_in_the_labs() {
    let golden = "   Network              Next Hop             AS_PATH              Age        Attrs\n\
*> 10.254.0.0/24        172.26.6.2                                00:01:01   [{Origin: i} {LocalPref: 100}]\n\
*  10.254.0.0/24        172.26.6.4                                00:01:01   [{Origin: i}]\n";
    let paths: Vec<m::Path> =
        rib(NOW).iter().flat_map(|one| one.paths.iter().map(|row| adapt::path(&one.prefix, row))).collect();
    let rows: Vec<_> = paths.iter().map(|path| (path, shown::columns(Version::V3, path).unwrap())).collect();
    assert_eq!(text::routes(&rows, text::View::Global, NOW), golden);
}

#[test]
fn counts_days_from_one_day_on() {
    let now = NOW.as_secs() as i64;
    assert_eq!(text::ago(NOW, now - 86_399), "23:59:59");
    assert_eq!(text::ago(NOW, now - 90_061), "1d 01:01:01");
}
