//! The effects of an order, one after the other.

use super::plan::{Step, StepMark, Target};
use super::script;
use crate::both;
use crate::fleet::{HealthView, ModuleView, NodeCell};
use crate::text::Lang;
use tsugi_core::command::Verb;
use tsugi_core::module::{Mode, ScriptName};
use tsugi_core::state::State;

/// Collects steps.
struct Steps<'a> {
    lang: Lang,
    m: &'a ModuleView,
    out: Vec<Step>,
}

impl Steps<'_> {
    fn push(&mut self, mark: StepMark, text: String) {
        self.out.push(Step { mark, text });
    }
    fn script_names(&self, first: ScriptName) -> String {
        script(self.lang, if self.m.mode() == Mode::Mirror { first } else { both_of(first) })
    }
    fn stop_application(&mut self, node: &str) {
        let (lang, module, file) = (self.lang, &self.m.module, self.script_names(ScriptName::StopPrim));
        let text =
            both!(lang, "Stop the application of {module} on {node} ({file})", "{node} で {module} のアプリケーションを停止（{file}）");
        self.push(StepMark::Stop, text);
    }
    fn start_application(&mut self, node: &str) {
        let (lang, module, file) = (self.lang, &self.m.module, self.script_names(ScriptName::StartPrim));
        let text =
            both!(lang, "Start the application of {module} on {node} ({file})", "{node} で {module} のアプリケーションを起動（{file}）");
        self.push(StepMark::Start, text);
    }
    fn release(&mut self, node: &str) {
        let lang = self.lang;
        for addr in self.m.vips() {
            let text = both!(lang, "Release {addr} on {node}", "{node} から {addr} を外す");
            self.push(StepMark::Stop, text);
        }
    }
    fn raise(&mut self, node: &str) {
        let lang = self.lang;
        for addr in self.m.vips() {
            let text = both!(lang, "Set {addr} on {node}", "{node} に {addr} を設定");
            self.push(StepMark::Move, text);
        }
    }
    fn take_over(&mut self, from: &str, to: &str) {
        let lang = self.lang;
        self.stop_application(from);
        for addr in self.m.vips() {
            let text = both!(lang, "Move {addr} to {to}", "{addr} を {to} へ移動");
            self.push(StepMark::Move, text);
        }
        self.start_application(to);
    }
}

fn both_of(script: ScriptName) -> ScriptName {
    match script {
        ScriptName::StopPrim => ScriptName::StopBoth,
        ScriptName::StartPrim => ScriptName::StartBoth,
        other => other,
    }
}

pub(super) fn steps(lang: Lang, m: &ModuleView, verb: &Verb, target: &Target, node: Option<&NodeCell>) -> Vec<Step> {
    let mut s = Steps { lang, m, out: Vec::new() };
    let Some(cell) = node else { return s.out };
    let on = cell.node.as_str();
    let other = m.other_than(&cell.node).filter(|_| m.mode() == Mode::Mirror);
    let serves = cell.is_serving();
    let is_backed = m.health == HealthView::Protected && other.is_some();
    match verb {
        Verb::Start => start_steps(&mut s, target, on, other),
        Verb::Stop if *target == Target::Module => {
            for c in m.cells.iter().filter(|c| c.now().is_some_and(|n| n.state == State::Second)) {
                let node = &c.node;
                let text = both!(lang, "{node} stops following", "{node} がセカンダリとしての動作を終了");
                s.push(StepMark::Stop, text);
            }
            for c in m.cells.iter().filter(|c| c.is_serving()) {
                s.stop_application(c.node.as_str());
                s.release(c.node.as_str());
            }
            let module = &m.module;
            let text = both!(lang, "{module} stays stopped until someone starts it", "{module} は次に起動するまで停止したまま");
            s.push(StepMark::Warn, text);
        }
        Verb::Swap => {
            if let Some(to) = other {
                let to = to.node.as_str();
                s.take_over(on, to);
                let text = both!(lang, "{on} becomes secondary; protection continues", "{on} はセカンダリになり、保護を継続");
                s.push(StepMark::Good, text);
            }
        }
        Verb::Stop | Verb::StopStart if serves && is_backed => {
            if let Some(to) = other {
                let to = to.node.as_str();
                s.take_over(on, to);
                let (mark, text) = match verb {
                    Verb::Stop => (
                        StepMark::Warn,
                        both!(lang, "{to} runs without a backup until {on} is started", "{on} を起動するまで、{to} は予備なしで稼働"),
                    ),
                    _ => (
                        StepMark::Good,
                        both!(
                            lang,
                            "{on} starts again and becomes secondary after a resync",
                            "{on} は再び起動し、再同期後にセカンダリになる"
                        ),
                    ),
                };
                s.push(mark, text);
            }
        }
        Verb::Stop => {
            if serves {
                s.stop_application(on);
                s.release(on);
                let text = both!(lang, "No other node takes over", "他のノードは引き継がない");
                s.push(StepMark::Warn, text);
            } else if m.mode() != Mode::Mirror {
                let module = &m.module;
                let text = both!(lang, "{module} stops on {on}", "{on} で {module} を停止");
                s.push(StepMark::Stop, text);
            } else {
                let text = both!(lang, "{on} stops following; its data is kept", "{on} はセカンダリとしての動作を終了（データは保持）");
                s.push(StepMark::Stop, text);
                let text = both!(lang, "The service runs without a backup", "サービスは予備なしで稼働");
                s.push(StepMark::Warn, text);
            }
        }
        Verb::Restart => {
            let all: Vec<&NodeCell> = match target {
                Target::Module => m.cells.iter().filter(|c| c.is_serving()).collect(),
                Target::Node(_) => vec![cell],
            };
            for c in all {
                s.stop_application(c.node.as_str());
                s.start_application(c.node.as_str());
            }
            if m.mode() != Mode::Mirror {
                return s.out;
            }
            let text = both!(lang, "{on} keeps its role; nothing is taken over", "{on} の役割は変わらず、引き継ぎは起こらない");
            s.push(StepMark::Good, text);
        }
        Verb::Verify => {
            let text = both!(lang, "{on} compares every file with its peer", "{on} が相手ノードとすべてのファイルを照合");
            s.push(StepMark::Move, text);
            let text = both!(lang, "The application goes on; nothing is taken over", "アプリケーションは稼働を続け、引き継ぎは起こらない");
            s.push(StepMark::Good, text);
            let text = both!(
                lang,
                "If anything differs, the secondary is brought level again from {on}: no backup for some seconds",
                "違いがあれば {on} のデータで再同期する（数秒間は予備なし）"
            );
            s.push(StepMark::Warn, text);
        }
        Verb::StopStart => {
            if serves {
                s.stop_application(on);
                s.release(on);
                s.raise(on);
                s.start_application(on);
            } else {
                let text = both!(lang, "{on} stops and starts again", "{on} が停止し、再び起動");
                s.push(StepMark::Move, text);
            }
            let text = both!(lang, "{on} is running again", "{on} が再び動作");
            s.push(StepMark::Good, text);
        }
        Verb::Prim { accept_loss } => {
            let text = both!(lang, "The data on {on} is declared the valid data", "{on} のデータを有効なデータとして確定");
            s.push(if *accept_loss { StepMark::Warn } else { StepMark::Move }, text);
            s.raise(on);
            s.start_application(on);
            give_up_steps(&mut s, other, *accept_loss);
        }
        Verb::PrimForce => {
            let text = both!(
                lang,
                "The incomplete copy on {on} is served; files in it may be damaged",
                "{on} の不完全なデータで稼働（ファイルが壊れている可能性あり）"
            );
            s.push(StepMark::Warn, text);
            s.raise(on);
            s.start_application(on);
            give_up_steps(&mut s, other, true);
        }
        Verb::Resolve { keep } => {
            let text = both!(lang, "The data on {keep} goes on", "{keep} のデータを残す");
            s.push(StepMark::Good, text);
            for c in m.cells.iter().filter(|c| c.node != *keep) {
                let node = &c.node;
                let text = both!(
                    lang,
                    "The copy on {node} is given up and written over from {keep}",
                    "{node} のデータは破棄し、{keep} のデータで上書き"
                );
                s.push(StepMark::Warn, text);
                let text = both!(
                    lang,
                    "Whatever was written only on {node} since the two parted is lost for good",
                    "分かれた後に {node} だけに書き込まれたデータは完全に失われる"
                );
                s.push(StepMark::Warn, text);
            }
        }
        Verb::Maintenance { minutes: 0 } => {
            let text = both!(lang, "Automatic restart and failover are on again", "自動の再起動と切り替えが有効に戻る");
            s.push(StepMark::Good, text);
        }
        Verb::Maintenance { .. } if *target == Target::Module => {
            let text = both!(
                lang,
                "For that time no node restarts or takes over by itself; none ever serves without the right to",
                "その間、どのノードも自動の再起動や引き継ぎを行わない（権利のない動作は引き続き防止）"
            );
            s.push(StepMark::Warn, text);
            let text = both!(lang, "Automatic actions return by themselves when the time is over", "時間が過ぎると自動処理は自動で戻る");
            s.push(StepMark::Good, text);
        }
        Verb::Maintenance { minutes } => {
            let text = both!(
                lang,
                "For {minutes} min {on} neither restarts nor takes over by itself; it never serves without the right to",
                "{minutes} 分間、{on} は自動の再起動も引き継ぎも行わない（権利のない動作は引き続き防止）"
            );
            s.push(StepMark::Warn, text);
        }
        Verb::Second { full_sync } => {
            if let Some(from) = other {
                let from = &from.node;
                let (mark, text) = if *full_sync {
                    (
                        StepMark::Warn,
                        both!(
                            lang,
                            "The data on {on} is given up and copied whole from {from}",
                            "{on} のデータを破棄し、{from} から全体をコピー"
                        ),
                    )
                } else {
                    (StepMark::Move, both!(lang, "{on} is brought up to date from {from}", "{from} から {on} へ差分をコピー"))
                };
                s.push(mark, text);
            }
            let text =
                both!(lang, "{on} becomes secondary; the service is protected again", "{on} はセカンダリになり、サービスは再び保護される");
            s.push(StepMark::Good, text);
        }
    }
    s.out
}

fn start_steps(s: &mut Steps<'_>, target: &Target, on: &str, other: Option<&NodeCell>) {
    let lang = s.lang;
    if other.is_some_and(NodeCell::is_serving) {
        let text = both!(lang, "{on} starts as secondary and is brought up to date", "{on} がセカンダリとして起動し、データを最新にする");
        s.push(StepMark::Start, text);
        let text = both!(lang, "The service is protected again", "サービスは再び保護される");
        s.push(StepMark::Good, text);
        return;
    }
    let stopped: Vec<String> = match target {
        Target::Node(node) => vec![node.to_string()],
        Target::Module => {
            s.m.cells.iter().filter(|c| c.now().is_some_and(|n| n.state == State::Stop)).map(|c| c.node.to_string()).collect()
        }
    };
    for node in stopped {
        let text = both!(lang, "The module starts on {node}", "{node} でモジュールを起動");
        s.push(StepMark::Start, text);
    }
    if s.m.mode() == Mode::Mirror {
        let text = both!(
            lang,
            "The node with the newest data serves; the other one follows",
            "最新データのあるノードがサービスを始め、もう一方はセカンダリになる"
        );
        s.push(StepMark::Good, text);
    }
}

fn give_up_steps(s: &mut Steps<'_>, other: Option<&NodeCell>, can_lose: bool) {
    let lang = s.lang;
    let Some(other) = other.map(|c| &c.node) else { return };
    let (mark, text) = if can_lose {
        (
            StepMark::Warn,
            both!(
                lang,
                "What only {other} holds is lost: its data is replaced when it returns",
                "{other} だけにある書き込みは失われる（復帰時にデータを置き換え）"
            ),
        )
    } else {
        (StepMark::Move, both!(lang, "{other} receives a copy of this data when it starts", "{other} の起動時に、このデータをコピー"))
    };
    s.push(mark, text);
}
