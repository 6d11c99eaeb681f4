//! May this client publish this, and what is it then? Decided before anything is stored or sent on.
//!
//! Ownership comes first: what belongs to the gateway is nobody else's, whatever an ACL says.

use crate::access::{Access, Identity};
use crate::model::tag::TagIx;
use crate::model::topic::{Owner, Ownership};

use super::message::Retain;

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Send it on; keep it if this says so.
    Publish(Retain),
    /// A command for this tag; also shown to those who watch the topic, never kept.
    Command(TagIx),
    /// Not allowed; what an MQTT 5 client is told.
    Refuse(&'static str),
}

/// Judges a PUBLISH.
pub(super) fn judge(access: &Access, ownership: &Ownership, who: &Identity, topic: &str, retain: Retain) -> Ruling {
    let owner = ownership.of(topic);
    if owner == Owner::Gateway {
        return Ruling::Refuse("this topic belongs to the gateway");
    }
    let allowed = match owner {
        Owner::EdgeNode if who.is_gateway() => true,
        Owner::EdgeNode => return Ruling::Refuse("this topic belongs to the gateway"),
        Owner::EdgeCommand => access.may_command(who, topic),
        _ => access.may_write(who, topic),
    };
    if !allowed {
        return Ruling::Refuse("not allowed to publish on this topic");
    }
    match owner {
        Owner::Command(tag) => Ruling::Command(tag),
        Owner::NoTag => Ruling::Refuse("there is no such tag"),
        // A retained command would be carried out again by whoever subscribes next.
        Owner::ClientSet | Owner::EdgeCommand => Ruling::Publish(Retain::No),
        _ => Ruling::Publish(retain),
    }
}

/// May the answer to a command go to this response topic?
pub(super) fn may_answer_on(access: &Access, ownership: &Ownership, who: &Identity, topic: &str) -> bool {
    ownership.of(topic) == Owner::Client && access.may_write(who, topic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Who;
    use crate::config::plan::{AclPlan, Anonymous, BrokerPlan, Plan};
    use crate::model::sparkplug::Node;

    #[test]
    fn the_gateways_topics_are_refused_even_to_a_client_that_may_write_everything() {
        let all = vec!["#".to_owned()];
        let rule = AclPlan { user: "anonymous".to_owned(), read: all.clone(), write: all, operate: Vec::new() };
        let plan = BrokerPlan { acl: vec![rule], ..Plan::empty("x").broker };
        let access = Access::new(&plan);
        let ownership = Ownership::new([("p/speed".into(), TagIx(7))]);
        let who = Identity::anonymous(Anonymous::ReadWrite, "c");
        let judge = |topic, retain| judge(&access, &ownership, &who, topic, retain);
        for topic in ["p/speed", "p/speed/set/result", "ironbridge/x/status", "$SYS/broker/uptime", "$x"] {
            assert!(matches!(judge(topic, Retain::No), Ruling::Refuse(_)), "{topic}");
        }
        assert_eq!(judge("p/speed/set", Retain::Yes), Ruling::Command(TagIx(7)));
        assert_eq!(judge("q/set", Retain::Yes), Ruling::Publish(Retain::No));
        ownership.settle(["p".into()].into());
        assert_eq!(judge("p/sped/set", Retain::No), Ruling::Refuse("there is no such tag"));
        assert_eq!(judge("q", Retain::Yes), Ruling::Publish(Retain::Yes));
        assert!(may_answer_on(&access, &ownership, &who, "answers/7"));
        assert!(!may_answer_on(&access, &ownership, &who, "p/speed"));
        assert!(!may_answer_on(&access, &ownership, &who, "p/speed/set"));
        assert!(!may_answer_on(&access, &ownership, &who, "other/set"));
    }

    #[test]
    fn what_the_gateways_own_edge_node_tells_is_told_by_nobody_else_and_its_commands_need_a_rule() {
        let filters = |filter: &str| vec![filter.to_owned()];
        let (read, write) = (filters("#"), filters("spBv1.0/acme/+/gw/#"));
        let rule = AclPlan { user: "*".to_owned(), read, write, operate: Vec::new() };
        let access = Access::new(&BrokerPlan { acl: vec![rule], ..Plan::empty("x").broker });
        let ownership = Ownership::default();
        ownership.stand_for(vec![Node::new("acme", "gw").expect("good ids")]);
        let (birth, command) = ("spBv1.0/acme/NBIRTH/gw", "spBv1.0/acme/NCMD/gw");
        let judge = |who: &Identity, topic| judge(&access, &ownership, who, topic, Retain::Yes);
        let gateway = Identity::gateway("own");
        assert_eq!(judge(&gateway, birth), Ruling::Publish(Retain::Yes));
        for topic in [command, "x", "ironbridge/x/status", "spBv1.0/acme/NBIRTH/other", "spBv1.0/STATE/scada"] {
            assert!(matches!(judge(&gateway, topic), Ruling::Refuse(_)), "{topic}");
        }
        let host = Identity::new(Who::User("scada".into()), "c");
        assert!(matches!(judge(&host, birth), Ruling::Refuse(_)), "whatever its rule says");
        assert_eq!(judge(&host, command), Ruling::Publish(Retain::No), "and it is never kept");
        let anybody = Identity::anonymous(Anonymous::ReadWrite, "c");
        assert!(matches!(judge(&anybody, command), Ruling::Refuse(_)), "as for …/set");
        assert_eq!(judge(&anybody, "spBv1.0/STATE/scada"), Ruling::Publish(Retain::Yes));
        assert_eq!(judge(&anybody, "spBv1.0/acme/NBIRTH/other"), Ruling::Publish(Retain::Yes));
        assert!(access.may_read(&gateway, "spBv1.0/STATE/scada"));
    }
}
