//! The transport against the running kernel, with requests that need no privilege.

use super::*;

const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const IFNAME: u16 = 3;
const ENODEV: i32 = 19;

fn get_link(batch: &mut Batch, index: u32) {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.message(GET_LINK, 0).header(&header);
}

fn name(kind: u16, payload: &[u8]) -> Option<String> {
    assert_eq!(kind, NEW_LINK);
    Attributes::after(payload, 16).find(IFNAME)?.text().map(str::to_owned)
}

#[test]
fn dump_finds_the_loopback_link() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let mut request = Batch::new();
    request.message(GET_LINK, flag::DUMP).header(&[0; 16]);
    for _ in 0..2 {
        assert!(socket.query(&mut request, name).unwrap().contains(&"lo".to_owned()));
    }
}

#[test]
fn query_without_dump_gives_one_object_or_the_refusal() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let mut request = Batch::new();
    get_link(&mut request, 1);
    assert_eq!(socket.query(&mut request, name).unwrap(), ["lo"]);
    request.clear();
    get_link(&mut request, u32::from(u16::MAX) + 77);
    let fault = socket.query(&mut request, name).unwrap_err();
    assert_eq!(fault.errno(), Some(ENODEV));
}

#[test]
fn batch_longer_than_a_send_answers_every_message_at_its_place() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let mut batch = Batch::new();
    for index in 0..450 {
        get_link(&mut batch, if index % 7 == 3 { 1_000_000 + index } else { 1 });
    }
    for round in 1..=2 {
        let results = socket.apply(&mut batch);
        assert_eq!(results.len(), 450);
        for (index, result) in results.iter().enumerate() {
            let errno = result.as_ref().err().map(|fault| fault.errno());
            assert_eq!(errno, (index % 7 == 3).then_some(Some(ENODEV)), "message {index}");
        }
        assert_eq!(socket.sends(), 3 * round);
    }
}

#[test]
fn lost_answers_are_unknown_and_the_socket_works_afterwards() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(socket.descriptor(), 1).unwrap();
    let mut batch = Batch::new();
    for _ in 0..200 {
        get_link(&mut batch, 1_000_000);
    }
    let results = socket.apply(&mut batch);
    let n_unknown = results.iter().filter(|result| matches!(result, Err(Fault::Unknown))).count();
    assert!(n_unknown > 150, "{n_unknown} unknown");
    assert!(results.iter().all(Result::is_err), "nothing is taken for done: every message was bad");
    let mut one = Batch::new();
    get_link(&mut one, 1_000_000);
    assert_eq!(socket.apply(&mut one)[0].as_ref().unwrap_err().errno(), Some(ENODEV));
}

#[test]
fn oversized_attributes_are_not_sent() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let mut batch = Batch::new();
    let mut message = batch.message(GET_LINK, 0);
    message.header(&[0; 16]).attributes().bytes(IFNAME, &[0; 70_000]);
    drop(message);
    assert!(matches!(socket.apply(&mut batch)[..], [Err(Fault::TooLong)]));
    assert!(matches!(socket.query(&mut batch, |_, _| Some(())), Err(Fault::TooLong)));
    assert_eq!(socket.sends(), 0);
}

#[test]
fn generic_families_have_numbers_or_are_unknown() {
    let mut socket = Socket::open(Protocol::Generic).unwrap();
    let mut controller = generic::Family::new("nlctrl");
    assert_eq!(controller.number(&mut socket).unwrap(), 16);
    assert_eq!(controller.renumber(&mut socket).unwrap(), None);
    let mut missing = generic::Family::new("no-such-family");
    assert_eq!(missing.number(&mut socket).unwrap_err().errno(), Some(Refusal::ENOENT));
}

#[test]
fn event_socket_says_that_nothing_happened() {
    let mut events = EventSocket::open(Protocol::Route, &[27]).unwrap();
    let error = events.read(&mut |_, _, _| {}).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}
