//! The backend on iptables and ipset with the programs and the kernel of this machine: the contract, and the two flavours.
//!
//! Also part of the tier that runs on the kernel at hand; each test has a network namespace of its own.

#![allow(clippy::print_stderr, reason = "says which promise is tried, and with which programs")]

use ferrovia::kernel::ipset::IpsetClient;
use ferrovia::kernel::iptables::{Flavour, Iptables, Programs, SystemPrograms, restore};
use ferrovia::kernel::netns::run_in_new;
use ferrovia::net::Family;
use ferrovia::testing::contract::iptables::{converge, promises, speakable};

type Real = Iptables<IpsetClient, SystemPrograms>;

fn real(flavour: Flavour) -> Real {
    Iptables::new(IpsetClient::open().expect("a socket"), SystemPrograms { flavour })
}

/// The flavours whose programs run here.
fn flavours() -> Vec<Flavour> {
    let runs =
        |flavour: &Flavour| Family::ALL.iter().all(|family| SystemPrograms { flavour: *flavour }.save(*family).is_ok());
    Flavour::ALL.into_iter().filter(runs).collect()
}

#[test]
fn keeps_every_promise() {
    guest!();
    for flavour in flavours() {
        for (name, promise) in promises::<Real>() {
            eprintln!("{flavour:?} {name}");
            run_in_new(|| promise(&mut real(flavour))).expect("a namespace");
        }
    }
    assert!(flavours().contains(&Flavour::Nft), "iptables-nft is installed");
}

#[test]
fn ours_stay_first_and_others_stay() {
    guest!();
    for flavour in flavours() {
        run_in_new(|| {
            let program = flavour.program(Family::V4);
            restore(program, "*filter\n:KUBE-X - [0:0]\n-A FORWARD -j KUBE-X\nCOMMIT\n").expect("their rules");
            let mut backend = real(flavour);
            converge(&mut backend, &speakable());
            restore(program, "*filter\n-I FORWARD 1 -p tcp -j ACCEPT\nCOMMIT\n").expect("their rules");
            converge(&mut backend, &speakable());
            let saved = SystemPrograms { flavour }.save(Family::V4).expect("a listing");
            let forward: Vec<&str> = saved.lines().filter(|line| line.starts_with("-A FORWARD ")).collect();
            assert_eq!(forward.len(), 3, "{forward:?}");
            assert!(forward[0].ends_with("-j FERROVIA-FORWARD"), "{forward:?}");
            assert!(forward[2].ends_with("-j KUBE-X"), "{forward:?}");
            let found = SystemPrograms::find().expect("programs");
            assert_eq!(found.programs.flavour, flavour, "the flavour with the KUBE chains");
            // Another daemon on the same node finds everything as it should be.
            converge(&mut real(flavour), &speakable());
        })
        .expect("a namespace");
    }
}
