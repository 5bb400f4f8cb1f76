//! The routing rules that lead into sluice's tables.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion};

use super::desired::{FORWARD_RULE_PRIORITY, FORWARD_TABLE, HOST_RULE_PRIORITY, HOST_TABLE, ROUTE_PROTOCOL};
use super::{Difference, Drift, Family, NodeError, NodeObject, NodeWarning};

/// A rule as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    priority: u32,
    table: u32,
    input: Option<String>,
    is_inverted: bool,
    /// Whether it has selectors or an action beyond the above.
    is_plain: bool,
}

impl Rule {
    fn host() -> Self {
        Self {
            priority: HOST_RULE_PRIORITY,
            table: HOST_TABLE,
            input: Some("lo".into()),
            is_inverted: false,
            is_plain: true,
        }
    }

    fn forward() -> Self {
        Self {
            priority: FORWARD_RULE_PRIORITY,
            table: FORWARD_TABLE,
            is_inverted: true,
            ..Self::host()
        }
    }

    fn read(message: &RuleMessage) -> Self {
        let header = &message.header;
        let mut rule = Self {
            priority: 0,
            table: u32::from(header.table),
            input: None,
            is_inverted: header.flags.contains(RuleFlags::Invert),
            is_plain: header.action == RuleAction::ToTable
                && header.src_len == 0
                && header.dst_len == 0
                && header.tos == 0,
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
                RuleAttribute::Oifname(_)
                | RuleAttribute::FwMark(_)
                | RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
                | RuleAttribute::UidRange(_)
                | RuleAttribute::TunId(_)
                | RuleAttribute::SuppressIfGroup(_) => rule.is_plain = false,
                // u32::MAX is "no suppression", which the kernel reports on every rule.
                RuleAttribute::SuppressPrefixLen(length) => rule.is_plain &= *length == u32::MAX,
                _ => {}
            }
        }
        rule
    }

    fn leads_to_our_tables(&self) -> bool {
        self.table == HOST_TABLE || self.table == FORWARD_TABLE
    }
}

async fn list(handle: &Handle, family: Family) -> Result<Vec<RuleMessage>, NodeError> {
    let version = match family {
        Family::Ipv4 => IpVersion::V4,
        Family::Ipv6 => IpVersion::V6,
    };
    handle
        .rule()
        .get(version)
        .execute()
        .try_collect()
        .await
        .map_err(|source| NodeError::List {
            listed: "rules",
            source,
        })
}

/// Makes sure of both rules of a family: exactly one of each, and no other that leads into sluice's tables. Foreign rules that
/// come before them are reported by `warnings`.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn ensure(
    handle: &Handle,
    family: Family,
    drifts: &mut Vec<Drift>,
    warnings: &mut Vec<NodeWarning>,
) -> Result<(), NodeError> {
    let mut missing = vec![Rule::host(), Rule::forward()];
    for message in list(handle, family).await? {
        let rule = Rule::read(&message);
        if let Some(at) = missing.iter().position(|wanted| *wanted == rule) {
            missing.swap_remove(at);
        } else if rule.leads_to_our_tables() {
            let object = NodeObject::Rule {
                family,
                priority: rule.priority,
            };
            remove(handle, message, &object).await?;
            drifts.push(Drift {
                object,
                difference: Difference::Unwanted,
            });
        } else if rule.priority < FORWARD_RULE_PRIORITY && !is_local_table(&rule) {
            warnings.push(NodeWarning::EarlierRule {
                family,
                priority: rule.priority,
            });
        }
    }
    for rule in missing {
        let object = NodeObject::Rule {
            family,
            priority: rule.priority,
        };
        add(handle, family, rule)
            .await
            .map_err(|source| NodeError::Apply {
                object: object.clone(),
                source,
            })?;
        drifts.push(Drift {
            object,
            difference: Difference::Missing,
        });
    }
    Ok(())
}

/// The kernel's own rule for the node's addresses (`RT_TABLE_LOCAL`).
fn is_local_table(rule: &Rule) -> bool {
    rule.table == 255
}

async fn add(handle: &Handle, family: Family, rule: Rule) -> Result<(), rtnetlink::Error> {
    let mut request = handle.rule().add().table_id(rule.table).priority(rule.priority);
    let message = request.message_mut();
    message.header.family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    // The builder leaves the main table in the header, where it only confuses older kernels.
    message.header.table = 0;
    message.header.action = RuleAction::ToTable;
    message.header.flags.set(RuleFlags::Invert, rule.is_inverted);
    message
        .attributes
        .push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    message.attributes.extend(rule.input.map(RuleAttribute::Iifname));
    request.execute().await
}

async fn remove(handle: &Handle, message: RuleMessage, object: &NodeObject) -> Result<(), NodeError> {
    handle
        .rule()
        .del(message)
        .execute()
        .await
        .map_err(|source| NodeError::Remove {
            object: object.clone(),
            source,
        })
}

/// Removes every rule that leads into sluice's tables. Returns how many there were.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn remove_all(handle: &Handle, family: Family) -> Result<usize, NodeError> {
    let mut removed = 0;
    for message in list(handle, family).await? {
        let rule = Rule::read(&message);
        if rule.leads_to_our_tables() {
            remove(
                handle,
                message,
                &NodeObject::Rule {
                    family,
                    priority: rule.priority,
                },
            )
            .await?;
            removed += 1;
        }
    }
    Ok(removed)
}
