//! Who lets a node go on without its peer, and what is to be said of it beforehand.

use crate::text::{Lang, Text};
use tsugi_core::module::Authority;
use tsugi_core::state::{ArbiterView, AuthorityView};

/// Whom it is: the name of an arbiter, or a few words.
pub fn authority(lang: Lang, view: &AuthorityView) -> String {
    let text = match view.kind {
        Authority::Arbiter if view.arbiter.is_console() => Text { en: "console", ja: "コンソール" },
        Authority::Arbiter => return view.arbiter.to_string(),
        Authority::Fence => Text { en: "the other node's power is cut", ja: "相手ノードの電源切断" },
        Authority::Manual => Text { en: "a person decides", ja: "人が判断" },
        Authority::Ping => Text { en: "a reference address answers", ja: "基準アドレスの応答" },
        Authority::None => Text { en: "none", ja: "なし" },
    };
    text.in_(lang).to_owned()
}

/// What an operator should know before anything fails. `arbiter` is what the node sees now.
pub fn authority_warnings(lang: Lang, view: &AuthorityView, arbiter: &ArbiterView) -> Vec<String> {
    let mut said = Vec::new();
    if *arbiter == ArbiterView::Unreachable {
        said.extend(match view.kind {
            Authority::Arbiter if view.arbiter.is_console() => super::arbiter(lang, arbiter).map(str::to_owned),
            Authority::Arbiter => Some(match lang {
                Lang::En => format!("arbiter {} is not reachable: automatic failover is off", view.arbiter),
                Lang::Ja => format!("アービター {} と通信できません：自動フェイルオーバーは無効です", view.arbiter),
            }),
            Authority::Fence => Some(FENCE_SILENT.in_(lang).to_owned()),
            Authority::Ping => Some(PING_SILENT.in_(lang).to_owned()),
            Authority::Manual | Authority::None => None,
        });
    }
    if view.kind.may_split() {
        said.push(MAY_SPLIT.in_(lang).to_owned());
    }
    said
}

const FENCE_SILENT: Text = Text {
    en: "the fencing device does not answer: automatic failover is off",
    ja: "電源制御装置が応答しません：自動フェイルオーバーは無効です",
};
const PING_SILENT: Text = Text {
    en: "no reference address answers: automatic failover is off",
    ja: "基準アドレスが応答しません：自動フェイルオーバーは無効です",
};
const MAY_SPLIT: Text = Text {
    en: "without an arbiter both nodes may serve at once, and confirmed writes can be lost",
    ja: "アービターがないため、両方のノードが同時にサービスを提供し、完了した書き込みが失われることがあります",
};

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::ids::ArbiterName;

    fn view(kind: Authority, arbiter: &str) -> AuthorityView {
        AuthorityView { kind, arbiter: ArbiterName::new(arbiter).unwrap() }
    }

    #[test]
    fn the_arbiter_is_named_and_its_loss_is_said_beforehand() {
        let witness = view(Authority::Arbiter, "w1");
        assert_eq!(authority(Lang::Ja, &witness), "w1");
        assert_eq!(authority(Lang::En, &AuthorityView::default()), "console");
        assert_eq!(authority_warnings(Lang::En, &witness, &ArbiterView::Reachable), Vec::<String>::new());
        assert_eq!(
            authority_warnings(Lang::En, &witness, &ArbiterView::Unreachable),
            ["arbiter w1 is not reachable: automatic failover is off"]
        );
        for kind in [Authority::Arbiter, Authority::Fence, Authority::Ping] {
            let said = |lang| authority_warnings(lang, &view(kind, "console"), &ArbiterView::Unreachable);
            assert!(!said(Lang::En).is_empty() && said(Lang::En).len() == said(Lang::Ja).len());
            assert_ne!(said(Lang::En), said(Lang::Ja));
        }
    }

    #[test]
    fn where_two_may_serve_it_is_said_always() {
        for kind in [Authority::Ping, Authority::None] {
            let said = authority_warnings(Lang::En, &view(kind, "console"), &ArbiterView::Reachable);
            assert!(said.len() == 1 && said[0].contains("both nodes may serve"), "{said:?}");
        }
        assert!(authority_warnings(Lang::En, &view(Authority::Manual, "console"), &ArbiterView::NotNeeded).is_empty());
    }
}
