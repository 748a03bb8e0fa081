//! The egress guard: which URLs and addresses a webhook may reach.
//!
//! Anyone with an API key chooses the URLs that this server calls, so by default only public unicast addresses are
//! reachable; everything in the IANA special-purpose address registries (RFC 6890) is refused. The operator opens
//! ranges with [`EgressPolicy::allow`].
//!
//! A URL is checked when it is written and again before each request ([`Egress::check_url`], which decides about
//! IP-literal hosts); names are decided where they are resolved ([`Egress`] is the HTTP client's resolver), and only
//! the addresses vetted there are dialled, so that a name that changes between check and use gains nothing.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// What the operator lets webhooks reach. The default: public addresses, http and https, every port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Ranges that are reachable though the guard forbids them. Default: none.
    ///
    /// An IPv6 address that carries an IPv4 one (NAT64, 6to4, ..) needs both: its own range allowed, and the carried
    /// address public or allowed too. An IPv4-mapped address is the same as the IPv4 address that it maps. Of local-use
    /// NAT64 only the layout of a /96 can be read: allow the translator's own /96, not the whole /48.
    pub allow: Vec<IpNet>,
    /// Refuse plain http. Default: false.
    pub require_https: bool,
    /// Destination ports that are reachable. Default: 1 to 65535.
    pub ports: PortSet,
}

/// A set of TCP ports, written `443, 8000-8999`. Port 0 is never in it. Default: 1 to 65535.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Tells whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![1..=u16::MAX])
    }
}

impl FromStr for PortSet {
    type Err = PortSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(parse_port_range).collect::<Option<_>>().map(Self).ok_or(PortSetError)
    }
}

impl TryFrom<String> for PortSet {
    type Error = PortSetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The text isn't a list of ports and port ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ports are numbers from 1 to 65535 or ranges of them, separated by commas, for example `443, 8000-8999`")]
pub struct PortSetError;

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

/// Decides by an [`EgressPolicy`]; also the resolver of the HTTP client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress {
    policy: Arc<EgressPolicy>,
}

impl Egress {
    /// Makes the guard of a policy.
    #[must_use]
    pub fn new(policy: EgressPolicy) -> Self {
        Self { policy: Arc::new(policy) }
    }

    /// Checks all of a URL that can be decided without resolving a name: scheme, port, IP-literal and `localhost`
    /// hosts. [`Url`] has already brought every spelling of an IPv4 address (octal, hexadecimal, one number, full
    /// width digits) to one form, and refuses IPv6 zone ids.
    ///
    /// # Errors
    ///
    /// The rule that forbids the URL.
    pub fn check_url(&self, url: &Url) -> Result<(), EgressDenied> {
        match url.scheme() {
            "http" if self.policy.require_https => return Err(EgressDenied::HttpsRequired),
            "http" | "https" => {}
            _ => return Err(EgressDenied::Scheme),
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !self.policy.ports.contains(port) {
            return Err(EgressDenied::Port { port });
        }
        match url.host() {
            None => Err(EgressDenied::NoHost),
            Some(Host::Ipv4(address)) => self.check_ip(address.into()),
            Some(Host::Ipv6(address)) => self.check_ip(address.into()),
            Some(Host::Domain(name)) if is_localhost(name) => self.loopback_addresses().map(drop),
            Some(Host::Domain(_)) => Ok(()),
        }
    }

    /// Checks an address that is about to be dialled.
    ///
    /// # Errors
    ///
    /// The range that forbids the address, or the address that it carries.
    pub fn check_ip(&self, address: IpAddr) -> Result<(), EgressDenied> {
        if let IpAddr::V6(carrier) = address {
            if let Some(mapped) = carrier.to_ipv4_mapped().map(IpAddr::V4)
                && self.is_allowed(mapped)
            {
                return Ok(());
            }
            for carried in carried_addresses(carrier) {
                if let Some(range) = self.forbidding_range(carried.into()) {
                    return Err(EgressDenied::Carried { carrier, carried, range });
                }
            }
        }
        match self.forbidding_range(address) {
            Some(range) => Err(EgressDenied::Address { address, range }),
            None => Ok(()),
        }
    }

    /// Resolves a name by the system's resolver. All of its addresses must be reachable, else none is used: a name
    /// with a public and a private address is an attack or a mistake.
    async fn addresses_of(&self, name: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        if is_localhost(name) {
            return Ok(self.loopback_addresses()?);
        }
        // Port 0 stands for the port of the URL, which the HTTP client fills in.
        let addresses = tokio::net::lookup_host((name, 0)).await.map_err(ResolveError::Lookup)?;
        self.vet(addresses)
    }

    fn vet(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses: Vec<_> = addresses.collect();
        for address in &addresses {
            self.check_ip(address.ip()).map_err(EgressDenied::of_resolved_name)?;
        }
        if addresses.is_empty() { Err(ResolveError::NoAddress) } else { Ok(addresses) }
    }

    /// The addresses of `localhost`: the system isn't asked (RFC 6761, section 6.3), so that a loopback range
    /// allowed for one address family is enough whatever the hosts file says.
    fn loopback_addresses(&self) -> Result<Vec<SocketAddr>, EgressDenied> {
        let candidates: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let allowed: Vec<_> = candidates
            .into_iter()
            .filter(|address| self.is_allowed(*address))
            .map(|address| SocketAddr::new(address, 0))
            .collect();
        if allowed.is_empty() { Err(EgressDenied::Localhost) } else { Ok(allowed) }
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.policy.allow.iter().any(|net| net.contains(&address))
    }

    fn forbidding_range(&self, address: IpAddr) -> Option<&'static Range> {
        if self.is_allowed(address) { None } else { special_range(address) }
    }
}

impl Resolve for Egress {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let addresses = egress.addresses_of(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The guard's no. The texts name the rule and what would lift it; they may be shown to the webhook's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenied {
    /// Neither http nor https.
    #[error("only http and https URLs can be called")]
    Scheme,
    /// Plain http where the operator demands https.
    #[error("plain http is off on this server; use https")]
    HttpsRequired,
    /// A URL without a host.
    #[error("the URL has no host")]
    NoHost,
    /// A port outside [`EgressPolicy::ports`].
    #[error("port {port} is not among the ports that this server may call")]
    Port {
        /// The URL's port, written or implied by its scheme.
        port: u16,
    },
    /// `localhost` or a name under it (RFC 6761, section 6.3).
    #[error("localhost is loopback (RFC 6761); allow it with --allow-egress 127.0.0.0/8")]
    Localhost,
    /// An address in a special range.
    #[error("{address} is {range}")]
    Address {
        /// The address that was to be dialled.
        address: IpAddr,
        /// The range that it is in.
        range: &'static Range,
    },
    /// An IPv6 address that stands for an IPv4 address in a special range.
    #[error("{carrier} carries {carried}, which is {range}")]
    Carried {
        /// The address that was to be dialled.
        carrier: Ipv6Addr,
        /// The address that a translator or tunnel would pass the connection to.
        carried: Ipv4Addr,
        /// The range that the carried address is in.
        range: &'static Range,
    },
    /// A name with an address in a special range. The address is kept back: telling it would let any tenant read the
    /// operator's internal DNS.
    #[error("the host's name resolves to an address that is {range}")]
    Resolved {
        /// The range that the address is in.
        range: &'static Range,
    },
}

impl EgressDenied {
    fn of_resolved_name(self) -> Self {
        match self {
            Self::Address { range, .. } | Self::Carried { range, .. } => Self::Resolved { range },
            other => other,
        }
    }
}

/// Why a name gave no address to dial. It stays in the source chain of the HTTP client's error.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name resolves, to a forbidden address.
    #[error(transparent)]
    Denied(#[from] EgressDenied),
    /// The system's resolver failed.
    #[error("the host's name does not resolve")]
    Lookup(#[source] io::Error),
    /// The name exists, without any address.
    #[error("the host's name has no address")]
    NoAddress,
}

/// `localhost` and the names under it, with or without the root's dot. Names of a [`Url`] are in lower case.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The IPv4 addresses that a translator, relay or tunnel would pass a connection to `carrier` on to.
fn carried_addresses(carrier: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let segments = carrier.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let tail = pair(segments[6], segments[7]);
    let found = match segments {
        // Unspecified and loopback (RFC 4291, 2.5.2 and 2.5.3) look like compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // Compatible (RFC 4291, 2.5.5.1), mapped (2.5.5.2) and translated (RFC 2765, 2.1); NAT64 by the well-known
        // prefix (RFC 6052) and local use (RFC 8215), the latter in the layout of a /96; ISATAP interface identifiers
        // under any prefix (RFC 5214, 6.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [0x64, 0xff9b, 1, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [Some(tail), None],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [Some(pair(high, low)), None],
        // Teredo (RFC 4380, 4): the server, and the client with its bits inverted.
        [0x2001, 0, high, low, ..] => [Some(pair(high, low)), Some(pair(!segments[6], !segments[7]))],
        _ => [None, None],
    };
    found.into_iter().flatten()
}

/// A range of addresses that no public web server has.
#[derive(Debug, PartialEq, Eq)]
pub struct Range {
    net: IpNet,
    name: &'static str,
    source: &'static str,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}); allow it with --allow-egress {}", self.name, self.source, self.net)
    }
}

/// The first range of the tables that has the address.
fn special_range(address: IpAddr) -> Option<&'static Range> {
    let ranges = if address.is_ipv4() { V4_RANGES } else { V6_RANGES };
    ranges.iter().find(|range| range.net.contains(&address))
}

const fn v4(start: [u8; 4], prefix_len: u8, name: &'static str, source: &'static str) -> Range {
    let start = Ipv4Addr::from_octets(start);
    Range { net: IpNet::V4(Ipv4Net::new_assert(start, prefix_len)), name, source }
}

/// A range by the first half of its start; the second half is zero.
const fn v6([a, b, c, d]: [u16; 4], prefix_len: u8, name: &'static str, source: &'static str) -> Range {
    v6_full([a, b, c, d, 0, 0, 0, 0], prefix_len, name, source)
}

const fn v6_full(start: [u16; 8], prefix_len: u8, name: &'static str, source: &'static str) -> Range {
    let start = Ipv6Addr::from_segments(start);
    Range { net: IpNet::V6(Ipv6Net::new_assert(start, prefix_len)), name, source }
}

/// The IANA IPv4 special-purpose address registry, also its globally reachable entries (no web server is there),
/// multicast, and the one cloud metadata service with a public address. Narrower ranges come before wider ones.
const V4_RANGES: &[Range] = &[
    v4([0, 0, 0, 0], 8, "this network", "RFC 791"),
    v4([10, 0, 0, 0], 8, "private", "RFC 1918"),
    v4([100, 64, 0, 0], 10, "shared address space of carrier-grade NAT", "RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122"),
    v4([168, 63, 129, 16], 32, "the host's own metadata service", "Azure WireServer"),
    v4([169, 254, 0, 0], 16, "link-local", "RFC 3927"),
    v4([172, 16, 0, 0], 12, "private", "RFC 1918"),
    v4([192, 0, 0, 0], 29, "IPv4 service continuity", "RFC 7335"),
    v4([192, 0, 0, 8], 32, "the IPv4 dummy address", "RFC 7600"),
    v4([192, 0, 0, 9], 32, "Port Control Protocol anycast", "RFC 7723"),
    v4([192, 0, 0, 10], 32, "TURN anycast", "RFC 8155"),
    v4([192, 0, 0, 170], 31, "NAT64 discovery", "RFC 8880"),
    v4([192, 0, 0, 0], 24, "IETF protocol assignments", "RFC 6890"),
    v4([192, 0, 2, 0], 24, "documentation", "RFC 5737"),
    v4([192, 31, 196, 0], 24, "AS112", "RFC 7535"),
    v4([192, 52, 193, 0], 24, "AMT", "RFC 7450"),
    v4([192, 88, 99, 2], 32, "6a44 relay anycast", "RFC 6751"),
    v4([192, 88, 99, 0], 24, "6to4 relay anycast", "RFC 7526"),
    v4([192, 168, 0, 0], 16, "private", "RFC 1918"),
    v4([192, 175, 48, 0], 24, "AS112", "RFC 7534"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation", "RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation", "RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    v4([255, 255, 255, 255], 32, "limited broadcast", "RFC 919"),
    v4([240, 0, 0, 0], 4, "reserved", "RFC 1112"),
];

/// The IANA IPv6 special-purpose address registry, then everything outside `2000::/3`, the one block that global
/// unicast addresses are given from, in the pieces of the IANA IPv6 address space registry.
const V6_RANGES: &[Range] = &[
    v6_full([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "RFC 4291"),
    v6_full([0; 8], 128, "unspecified", "RFC 4291"),
    v6_full([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped", "RFC 4291"),
    v6_full([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "IPv4-translated", "RFC 2765"),
    v6_full([0; 8], 96, "IPv4-compatible", "RFC 4291"),
    v6([0x64, 0xff9b, 0, 0], 96, "NAT64", "RFC 6052"),
    v6([0x64, 0xff9b, 1, 0], 48, "local-use NAT64", "RFC 8215"),
    v6([0x100, 0, 0, 0], 64, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1], 64, "the dummy prefix", "RFC 9780"),
    v6([0x2001, 0, 0, 0], 32, "Teredo", "RFC 4380"),
    v6_full([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, "Port Control Protocol anycast", "RFC 7723"),
    v6_full([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, "TURN anycast", "RFC 8155"),
    v6_full([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, "DNS-SD registration anycast", "RFC 9665"),
    v6([0x2001, 2, 0, 0], 48, "benchmarking", "RFC 5180"),
    v6([0x2001, 3, 0, 0], 32, "AMT", "RFC 7450"),
    v6([0x2001, 4, 0x112, 0], 48, "AS112", "RFC 7535"),
    v6([0x2001, 0x10, 0, 0], 28, "ORCHID", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0x30, 0, 0], 28, "drone remote identification", "RFC 9374"),
    v6([0x2001, 0, 0, 0], 23, "IETF protocol assignments", "RFC 2928"),
    v6([0x2001, 0xdb8, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x2002, 0, 0, 0], 16, "6to4", "RFC 3056"),
    v6([0x2620, 0x4f, 0x8000, 0], 48, "AS112", "RFC 7534"),
    v6([0x3fff, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0], 16, "SRv6 segment identifiers", "RFC 9602"),
    v6([0xfc00, 0, 0, 0], 7, "unique local", "RFC 4193"),
    v6([0xfe80, 0, 0, 0], 10, "link-local", "RFC 4291"),
    v6([0xfec0, 0, 0, 0], 10, "site-local", "RFC 3879"),
    v6([0xff00, 0, 0, 0], 8, "multicast", "RFC 4291"),
    v6([0, 0, 0, 0], 3, "reserved", "RFC 4291"),
    v6([0x4000, 0, 0, 0], 2, "reserved", "RFC 4291"),
    v6([0x8000, 0, 0, 0], 1, "reserved", "RFC 4291"),
];

#[cfg(test)]
mod tests;
