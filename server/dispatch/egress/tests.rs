use super::*;

fn guard(allow: &[&str]) -> Egress {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    Egress::new(EgressPolicy { allow, ..EgressPolicy::default() })
}

/// `expected`: "ok", "no url" (the URL parser refuses it), or words of the refusal.
#[track_caller]
fn check(guard: &Egress, url: &str, expected: &str) {
    let found = match Url::parse(url).map(|url| guard.check_url(&url)) {
        Err(_) => "no url".to_owned(),
        Ok(Ok(())) => "ok".to_owned(),
        Ok(Err(denied)) => denied.to_string(),
    };
    let holds = if matches!(expected, "ok" | "no url") { found == expected } else { found.contains(expected) };
    assert!(holds, "{url}: expected `{expected}`, found `{found}`");
}

/// `hosts` are separated by spaces.
#[track_caller]
fn check_hosts(guard: &Egress, expected: &str, hosts: &str) {
    for host in hosts.split_ascii_whitespace() {
        check(guard, &format!("http://{host}/hook"), expected);
    }
}

#[test]
fn every_spelling_of_an_ipv4_address_is_that_address() {
    let guard = guard(&[]);
    let loopback = "127.0.0.1 127.0.0.1. 127.1 127.0.1 127.255.255.254 0177.0.0.1 0177.1 0x7f.1 \
        0X7F.0.0.1 0x7f.0x0.0x0.0x1 2130706433 2130706433. 017700000001 0x7f000001 \
        0x7F000001 %31%32%37.0.0.1 127%2e0%2E0.1 ①②⑦.⓪.⓪.① １２７.0.0.1 127。0。0。1 127．0．0．1 \
        user:password@127.0.0.1 example.com@127.0.0.1 127.0.0.1:8080 127.0.0.1\\@example.com \
        127.0.0.1#@example.com 127.0.0.1?@example.com 00000177.000000.1";
    check_hosts(&guard, "is loopback (RFC 1122); allow it with --allow-egress 127.0.0.0/8", loopback);
    check_hosts(&guard, "0.0.0.0 is this network (RFC 791)", "0 0.0 0x0 00 0.0.0.0 0x");
    check_hosts(&guard, "169.254.169.254 is link-local (RFC 3927)", "2852039166 0xa9fea9fe 169.16689662");
    check_hosts(&guard, "no url", "256.0.0.1 0x100000000 4294967296 1.2.3.4.5 08.0.0.1 1.2.3.999");
    check_hosts(&guard, "no url", "[127.0.0.1] [::1 a%00b a<b a%25b");
    check(&guard, "http://127.0.0.\t1/", "127.0.0.1 is loopback");
    check(&guard, "http://exa mple.com/", "no url");
}

#[test]
fn slashes_and_schemes() {
    let guard = guard(&[]);
    for url in ["http:10.0.0.8/", "http:/10.0.0.8/", "http:\\\\10.0.0.8\\", "HTTP://10.0.0.8", " https://10.0.0.8\n"] {
        check(&guard, url, "10.0.0.8 is private (RFC 1918); allow it with --allow-egress 10.0.0.0/8");
    }
    for url in ["ftp://8.8.8.8/", "file:///etc/passwd", "ws://8.8.8.8/", "gopher://8.8.8.8/", "data:,x", "unix:/run/x"]
    {
        check(&guard, url, "only http and https");
    }
    check(&guard, "http://8.8.8.8/", "ok");
    check(&guard, "https://8.8.8.8/", "ok");
}

#[test]
fn special_ipv4_ranges_at_their_edges() {
    let guard = guard(&[]);
    check_hosts(&guard, "this network (RFC 791)", "0.0.0.1 0.255.255.255");
    check_hosts(&guard, "private (RFC 1918)", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255");
    check_hosts(&guard, "private (RFC 1918)", "192.168.0.0 192.168.255.255");
    check_hosts(&guard, "shared address space", "100.64.0.0 100.100.100.200 100.127.255.255");
    check_hosts(&guard, "loopback (RFC 1122)", "127.0.0.0 127.255.255.255");
    check_hosts(&guard, "metadata", "168.63.129.16");
    check_hosts(&guard, "link-local (RFC 3927)", "169.254.0.0 169.254.170.2 169.254.255.255");
    check_hosts(&guard, "RFC 7335", "192.0.0.0 192.0.0.7");
    check_hosts(&guard, "RFC 7600", "192.0.0.8");
    check_hosts(&guard, "RFC 7723", "192.0.0.9");
    check_hosts(&guard, "RFC 8155", "192.0.0.10");
    check_hosts(&guard, "RFC 8880", "192.0.0.170 192.0.0.171");
    check_hosts(&guard, "RFC 6890", "192.0.0.11 192.0.0.192 192.0.0.255");
    check_hosts(&guard, "RFC 5737", "192.0.2.0 192.0.2.255 198.51.100.7 203.0.113.255");
    check_hosts(&guard, "AS112", "192.31.196.1 192.175.48.6");
    check_hosts(&guard, "AMT (RFC 7450)", "192.52.193.1");
    check_hosts(&guard, "RFC 6751", "192.88.99.2");
    check_hosts(&guard, "RFC 7526", "192.88.99.1 192.88.99.255");
    check_hosts(&guard, "benchmarking (RFC 2544)", "198.18.0.0 198.19.255.255");
    check_hosts(&guard, "multicast (RFC 5771)", "224.0.0.0 239.255.255.255");
    check_hosts(&guard, "reserved (RFC 1112)", "240.0.0.0 255.255.255.254");
    check_hosts(&guard, "limited broadcast (RFC 919)", "255.255.255.255");
    check_hosts(
        &guard,
        "ok",
        "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 \
        169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 \
        192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255",
    );
}

#[test]
fn special_ipv6_ranges_at_their_edges() {
    let guard = guard(&[]);
    check_hosts(&guard, "::1 is loopback (RFC 4291)", "[::1] [0:0:0:0:0:0:0:1] [0000::0001] [::0.0.0.1]");
    check_hosts(&guard, "unspecified", "[::] [0:0::0] [::0.0.0.0]");
    check_hosts(&guard, "discard-only", "[100::] [100::ffff:ffff:ffff:ffff]");
    check_hosts(&guard, "RFC 9780", "[100:0:0:1::]");
    check_hosts(&guard, "RFC 7723", "[2001:1::1]");
    check_hosts(&guard, "RFC 8155", "[2001:1::2]");
    check_hosts(&guard, "RFC 9665", "[2001:1::3]");
    check_hosts(&guard, "RFC 2928", "[2001:1::4] [2001:1ff:ffff::] [2001:40::]");
    check_hosts(&guard, "RFC 5180", "[2001:2::1]");
    check_hosts(&guard, "RFC 7450", "[2001:3::1]");
    check_hosts(&guard, "AS112", "[2001:4:112::1] [2620:4f:8000::1]");
    check_hosts(&guard, "ORCHID (RFC 4843)", "[2001:10::1]");
    check_hosts(&guard, "ORCHIDv2", "[2001:20::1] [2001:2f:ffff::]");
    check_hosts(&guard, "RFC 9374", "[2001:30::1]");
    check_hosts(&guard, "documentation (RFC 3849)", "[2001:db8::] [2001:DB8:ffff:ffff::1]");
    check_hosts(&guard, "documentation (RFC 9637)", "[3fff::1] [3fff:fff:ffff::]");
    check_hosts(&guard, "RFC 9602", "[5f00::1]");
    check_hosts(&guard, "unique local (RFC 4193)", "[fc00::1] [fd00:ec2::254] [fd20:ce::254] [fdff::]");
    check_hosts(&guard, "fe80::1 is link-local", "[fe80::1] [FE80:0::1]");
    check_hosts(&guard, "site-local", "[fec0::1] [feff:ffff::]");
    check_hosts(&guard, "multicast", "[ff00::] [ff02::1] [ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]");
    check_hosts(&guard, "reserved (RFC 4291)", "[200::1] [1fff:ffff::] [4000::] [7fff::] [8000::]");
    check_hosts(&guard, "reserved (RFC 4291)", "[c000::1] [fbff::1] [fe00::1] [fe7f::1] [101::1]");
    check_hosts(&guard, "no url", "[fe80::1%25eth0] [fe80::1%eth0] [::1%0] [1::2::3] [::ffff:127.1]");
    check_hosts(
        &guard,
        "ok",
        "[2000::] [2001:200::1] [2001:4860:4860::8888] [2001:dc8::1] [2003::1] [2606:4700::1111] \
        [2620:4f:7fff::1] [2620:4f:8001::1] [3ffe::1] [3fff:1000::1]",
    );
}

#[test]
fn carried_ipv4_addresses() {
    let guard = guard(&[]);
    check_hosts(
        &guard,
        "carries 127.0.0.1, which is loopback (RFC 1122); allow it with --allow-egress 127.0.0.0/8",
        "[::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:7F00:0001] [0:0:0:0:0:ffff:127.0.0.1] [::127.0.0.1] \
        [::7f00:1] [::ffff:0:127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::127.0.0.1] \
        [64:ff9b:1:abcd::7f00:1] [2002:7f00:1::] [2002:7f00:1:1::99] [2001:0:7f00:1::f7f7:f7f7] \
        [2001:0:808:808::80ff:fffe] [2606:4700::5efe:7f00:1] [2606:4700::5efe:127.0.0.1] \
        [2606:4700:0:0:200:5efe:7f00:1]",
    );
    check_hosts(&guard, "carries 169.254.169.254", "[::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe] [2002:a9fe:a9fe::]");
    check_hosts(&guard, "IPv4-mapped", "[::ffff:8.8.8.8]");
    check_hosts(&guard, "IPv4-translated", "[::ffff:0:8.8.8.8]");
    check_hosts(&guard, "IPv4-compatible", "[::8.8.8.8]");
    check_hosts(&guard, "is NAT64 (RFC 6052); allow it with --allow-egress 64:ff9b::/96", "[64:ff9b::8.8.8.8]");
    check_hosts(&guard, "local-use NAT64", "[64:ff9b:1::8.8.8.8]");
    check_hosts(&guard, "6to4", "[2002:808:808::1]");
    check_hosts(&guard, "Teredo", "[2001:0:808:808::f7f7:f7f7]");
    check_hosts(&guard, "ok", "[2606:4700::5efe:8.8.8.8]");
}

#[test]
fn names() {
    let open = guard(&["127.0.0.0/8"]);
    let closed = guard(&["10.0.0.0/8"]);
    let localhosts = "localhost LOCALHOST localhost. a.localhost A.LocalHost. localhost:81 ｌocalhost";
    check_hosts(&closed, "localhost is loopback (RFC 6761); allow it with --allow-egress 127.0.0.0/8", localhosts);
    check_hosts(&open, "ok", localhosts);
    check_hosts(&guard(&["::1/128"]), "ok", localhosts);
    // Names are decided where they are resolved.
    check_hosts(
        &closed,
        "ok",
        "example.com EXAMPLE.COM. notlocalhost localhost.example.com 127.0.0.1.example.com xn--bcher-kva.example \
        bücher.example 127.0.0.1@example.com 1.2.3.x 0x7g",
    );
}

#[test]
fn allowed_ranges_open_what_they_cover() {
    let open = guard(&["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"]);
    check_hosts(&open, "ok", "10.1.2.3 127.0.0.1 2130706433 [::ffff:10.1.2.3] [fd12::1] 8.8.8.8");
    check_hosts(&open, "loopback", "127.0.0.2 [::1] [::ffff:127.0.0.2]");
    check_hosts(&open, "unique local", "[fc00::1]");
    check_hosts(&open, "is NAT64", "[64:ff9b::10.1.2.3]");
    check_hosts(&open, "is 6to4", "[2002:a01:203::]");
    let translated = guard(&["64:ff9b::/96", "::ffff:0:0/96"]);
    check_hosts(&translated, "ok", "[64:ff9b::8.8.8.8] [::ffff:8.8.8.8]");
    check_hosts(&translated, "carries 10.1.2.3", "[64:ff9b::10.1.2.3] [::ffff:10.1.2.3]");
    check_hosts(&translated, "is private", "10.1.2.3");
    let all = guard(&["0.0.0.0/0", "::/0"]);
    check_hosts(&all, "ok", "0.0.0.0 255.255.255.255 [::] [ff02::1] [64:ff9b::7f00:1] localhost");
}

#[test]
fn https_and_ports() {
    let ports = "443, 8000-8999".parse().unwrap();
    let strict = Egress::new(EgressPolicy { require_https: true, ports, ..EgressPolicy::default() });
    check(&strict, "http://8.8.8.8:443/", "plain http is off");
    check(&strict, "https://8.8.8.8/", "ok");
    check(&strict, "https://example.com:8999/", "ok");
    check(&strict, "https://example.com:9000/", "port 9000 is not among");
    check(&strict, "https://10.0.0.8:8000/", "private");
    check(&guard(&[]), "http://example.com:0/", "port 0 is not among");
    check(&guard(&[]), "http://example.com:65535/", "ok");
    check(&guard(&[]), "http://example.com:65536/", "no url");
    for text in ["", "0", "0-5", "9-8", "80,", "80;81", "65536", "-", "1-2-3", "http"] {
        assert_eq!(text.parse::<PortSet>(), Err(PortSetError), "{text:?}");
    }
}

#[test]
fn every_address_outside_global_unicast_is_in_a_range() {
    for first in (0..0x2000_u16).chain(0x4000..=0xffff) {
        for rest in [0, 1, 0x5efe, 0xffff] {
            let address = Ipv6Addr::new(first, rest, rest, rest, rest, rest, rest, rest);
            assert!(guard(&[]).check_ip(address.into()).is_err(), "{address}");
        }
    }
}

#[test]
fn one_forbidden_address_condemns_a_name() {
    let guard = guard(&["192.168.7.0/24"]);
    let vet = |addresses: &[&str]| {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        guard.vet(addresses.into_iter()).map_err(|error| error.to_string())
    };
    let both = ["8.8.8.8:0".parse().unwrap(), "192.168.7.9:0".parse().unwrap()];
    assert_eq!(vet(&["8.8.8.8:0", "192.168.7.9:0"]), Ok(both.to_vec()));
    let refusal = "the host's name resolves to an address that is private (RFC 1918); \
        allow it with --allow-egress 10.0.0.0/8";
    assert_eq!(vet(&["8.8.8.8:0", "10.0.0.8:0"]), Err(refusal.to_owned()));
    assert_eq!(vet(&["[::ffff:10.0.0.8]:0"]), Err(refusal.to_owned()));
    assert!(vet(&["8.8.8.8:0", "[fe80::1%3]:0"]).unwrap_err().contains("link-local"));
    assert_eq!(vet(&[]), Err("the host's name has no address".to_owned()));
}

#[tokio::test]
async fn localhost_is_answered_without_the_system() {
    let addresses = guard(&["127.0.0.0/8"]).addresses_of("hooks.localhost.").await.unwrap();
    assert_eq!(addresses, ["127.0.0.1:0".parse().unwrap()]);
    let addresses = guard(&["127.0.0.0/8", "::1/128"]).addresses_of("localhost").await.unwrap();
    assert_eq!(addresses, ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]);
    let error = guard(&[]).addresses_of("localhost").await.unwrap_err();
    assert!(matches!(error, ResolveError::Denied(EgressDenied::Localhost)));
}

/// A label over 63 bytes is refused by the resolver's library, before any query.
#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let error = guard(&[]).addresses_of(&format!("{}.invalid", "a".repeat(64))).await.unwrap_err();
    assert!(matches!(error, ResolveError::Lookup(_)), "{error:?}");
}
