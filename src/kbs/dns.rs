//! Names to addresses, in an image that may hold nothing but one binary and what the kubelet mounts:
//! `/etc/resolv.conf` and `/etc/hosts`, each of which may be absent.
//!
//! An answer here proves nothing: the control plane writes both files and runs the servers. Who
//! stands at the address is for TLS to say.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

/// Most bytes of `/etc/resolv.conf` that are read, 64 KiB. The kubelet's has about 150.
const MAX_CONF: u64 = 64 * 1024;

/// Most addresses of one name that are tried: who has more has a load balancer.
pub(super) const MAX_ADDRESSES: usize = 4;

/// Resolves the names of KBSes.
pub struct Resolver {
    inner: TokioResolver,
    servers: usize,
}

/// Why a name has no address. Holds no text of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsProblem {
    /// No `/etc/resolv.conf`, or no name server in it.
    #[error("no name server is configured (/etc/resolv.conf)")]
    NoServers,
    /// The servers say that there is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// The name exists and has no address.
    #[error("the name exists, but has no address")]
    NoAddress,
    /// The servers did not answer, or not with an answer.
    #[error("the name servers did not answer")]
    NoAnswer,
    /// What the configuration calls a host is not a name.
    #[error("it is not a name that DNS can hold")]
    BadName,
}

impl Resolver {
    /// From `/etc/resolv.conf` and `/etc/hosts`. Where the first is absent, only the second answers.
    pub fn system() -> Result<Self, DnsProblem> {
        let mut text = Vec::new();
        let read = std::fs::File::open("/etc/resolv.conf").and_then(|file| file.take(MAX_CONF).read_to_end(&mut text));
        let parsed = read.ok().and_then(|_| parse_resolv_conf(&text).ok());
        let (config, options) = parsed.unwrap_or_default();
        Self::build(config, options)
    }

    /// From name servers given by address and port, without `/etc/hosts`. For tests and doubles.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, DnsProblem> {
        let servers = servers.iter().map(|server| {
            let mut connection = ConnectionConfig::udp();
            connection.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![connection])
        });
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        Self::build(ResolverConfig::from_parts(None, Vec::new(), servers.collect()), options)
    }

    fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, DnsProblem> {
        // Nothing is asked twice, and a stale answer would hide what is being looked for.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let servers = config.name_servers().len();
        let inner = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|_| DnsProblem::NoServers)?;
        Ok(Self { inner, servers })
    }

    /// How many name servers are asked. Those of `/etc/resolv.conf` may be listed once for each transport.
    pub fn servers(&self) -> usize {
        self.servers
    }

    fn has_servers(&self) -> bool {
        self.servers > 0
    }

    /// The addresses of `host`, at least one, IPv4 first. Has no timeout of its own worth relying
    /// on: the caller holds the deadline.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, DnsProblem> {
        let found = self.inner.lookup_ip(host).await.map_err(|error| self.problem(&error))?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() { Err(DnsProblem::NoAddress) } else { Ok(addresses) }
    }

    fn problem(&self, error: &NetError) -> DnsProblem {
        match error {
            _ if error.is_nx_domain() => DnsProblem::NoSuchName,
            _ if error.is_no_records_found() && self.has_servers() => DnsProblem::NoAddress,
            NetError::Proto(_) if self.has_servers() => DnsProblem::BadName,
            _ if !self.has_servers() => DnsProblem::NoServers,
            _ => DnsProblem::NoAnswer,
        }
    }
}

/// Makes a [`Resolver`] for each new connection: the kubelet and a late network write
/// `/etc/resolv.conf` when they please, and connections are few.
#[derive(Clone)]
pub struct Names(Arc<dyn Fn() -> Result<Resolver, DnsProblem> + Send + Sync>);

impl Names {
    /// As [`Resolver::system`].
    pub fn system() -> Self {
        Self::with(Resolver::system)
    }

    /// With resolvers of the caller's, for tests and doubles.
    pub fn with(make: impl Fn() -> Result<Resolver, DnsProblem> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

/// Literal addresses never come here. The port of the URL is put in by the caller.
impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = (names.0)()?.lookup(name.as_str()).await?;
            let addresses = addresses.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, 0));
            let addresses: reqwest::dns::Addrs = Box::new(addresses);
            Ok(addresses)
        })
    }
}
