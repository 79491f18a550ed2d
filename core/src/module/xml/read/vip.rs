//! `<vip>`: virtual addresses, each once, none of them a machine's own.

use super::{ParseContext, Problem, ProblemKind};
use crate::markup::schema::At;
use crate::markup::tree::shorten;
use crate::markup::value;
use crate::markup::{Expected, Place};
use crate::module::Vip;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest interface name of Linux.
const INTERFACE_BYTES_MAX: usize = 15;
/// Networks are seldom larger: a virtual address that shares fewer leading bits with every node is a slip.
const WIDEST_PREFIX_V4: u8 = 16;
/// The same for IPv6.
const WIDEST_PREFIX_V6: u8 = 48;

pub(super) fn read(service: &At<'_>, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) -> Vec<Vip> {
    let mut found: Vec<Vip> = Vec::new();
    let mut firsts: BTreeMap<IpAddr, Place> = BTreeMap::new();
    let interfaces = service.all("vip").iter().flat_map(|v| v.all("interface_list")).flat_map(|l| l.all("interface")).collect::<Vec<_>>();
    for interface in interfaces {
        let name = interface_name(&interface, problems);
        let addresses = interface.all("real_interface").iter().flat_map(|r| r.all("virtual_addr")).collect::<Vec<_>>();
        // With a `virtual_interface` the table has said enough.
        if addresses.is_empty() && interface.element.children.is_empty() {
            problems.push(interface.wrong_here(ProblemKind::MissingElement { name: "real_interface".to_owned() }));
        }
        for address in addresses {
            side(&address, problems);
            let Some(addr) = address.address("addr") else { continue };
            if let Some(first) = firsts.get(&addr) {
                problems.push(address.wrong("addr", ProblemKind::DuplicateVip { addr, first: *first }));
                continue;
            }
            firsts.insert(addr, address.place_of("addr"));
            let prefix = prefix(&address, addr, problems);
            let vip = Vip { addr, prefix, interface: name.clone(), is_checked: address.switch("check").unwrap_or(true) };
            surroundings(&address, &vip, ctx, problems);
            found.push(vip);
        }
    }
    found
}

fn interface_name(interface: &At<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let name = interface.text("name")?;
    if name.len() > INTERFACE_BYTES_MAX || name.contains(|c: char| c == '/' || c.is_whitespace()) {
        let kind = ProblemKind::BadValue { value: shorten(name), expected: Expected::InterfaceName };
        problems.push(interface.wrong("name", kind));
        return None;
    }
    Some(name.to_owned())
}

fn side(address: &At<'_>, problems: &mut Vec<Problem>) {
    match address.text("where") {
        Some("alias") => {
            let kind = ProblemKind::WrongMode { what: "where=\"alias\"".to_owned(), mode: "mirror".to_owned() };
            problems.push(address.wrong("where", kind));
        }
        Some("one_side") => {
            let instead = Some("where=\"one_side_alias\"".to_owned());
            problems.push(address.wrong("where", ProblemKind::NotSupported { what: "where=\"one_side\"".to_owned(), instead }));
        }
        _ => {}
    }
}

fn prefix(address: &At<'_>, addr: IpAddr, problems: &mut Vec<Problem>) -> Option<u8> {
    let text = address.text("netmask")?;
    let prefix = value::netmask(text).ok()?;
    let is_right = match addr {
        IpAddr::V4(_) => prefix <= 32,
        IpAddr::V6(_) => !text.contains('.'),
    };
    if !is_right {
        problems.push(address.wrong("netmask", value::bad(text, Expected::Netmask)));
        return None;
    }
    Some(prefix)
}

fn surroundings(address: &At<'_>, vip: &Vip, ctx: &ParseContext<'_>, problems: &mut Vec<Problem>) {
    let Some(cluster) = ctx.cluster else { return };
    let nodes = || cluster.lans.iter().flat_map(|l| &l.nodes);
    let is_own = |n: &&crate::cluster::LanNode| n.addr == vip.addr || n.local == Some(vip.addr);
    if let Some(node) = nodes().find(is_own) {
        problems.push(address.wrong("addr", ProblemKind::VipIsNode { addr: vip.addr, node: node.name.clone() }));
        return;
    }
    // A named interface may be on a network the cluster does not use.
    if vip.interface.is_none() && !nodes().any(|n| shares_network(vip, n.local.unwrap_or(n.addr))) {
        let lans = cluster.lans.iter().map(|l| l.name.clone()).collect();
        problems.push(address.wrong("addr", ProblemKind::VipOutsideLans { addr: vip.addr, lans }).into_warning());
    }
}

fn shares_network(vip: &Vip, node: IpAddr) -> bool {
    match (vip.addr, node) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differing = (u32::from(a) ^ u32::from(b)).leading_zeros();
            differing >= u32::from(vip.prefix.unwrap_or(WIDEST_PREFIX_V4))
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differing = (u128::from(a) ^ u128::from(b)).leading_zeros();
            differing >= u32::from(vip.prefix.unwrap_or(WIDEST_PREFIX_V6))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}
