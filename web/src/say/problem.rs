//! Problems of `userconfig.xml` and `cluster.xml`. The English words are the reader's own; here they get Japanese
//! beside them, and both become what the page and the API show.

use crate::text::Lang;
use crate::view::ProblemView;
use tsugi_core::module::xml::{Expected, Fault, NAME_PATTERN_BYTES_MAX, Problem, ProblemKind, RESOURCE_CLASSES, RuleFault, UnusedReason};

/// What is wrong: one sentence.
pub fn problem_message(lang: Lang, problem: &Problem) -> String {
    match lang {
        Lang::En => problem.message(),
        Lang::Ja => message(&problem.kind),
    }
}

/// What to do about it: one sentence.
pub fn problem_remedy(lang: Lang, problem: &Problem) -> String {
    match lang {
        Lang::En => problem.remedy(),
        Lang::Ja => remedy(&problem.kind),
    }
}

/// A problem as the pages show it. `file` is `conf/userconfig.xml` or `cluster.xml`.
pub fn problem(lang: Lang, file: &str, problem: &Problem) -> ProblemView {
    let element = match &problem.attribute {
        Some(attribute) => format!("{} {attribute}", problem.element),
        None => problem.element.clone(),
    };
    ProblemView {
        file: file.to_owned(),
        line: problem.place.line,
        column: problem.place.column,
        element,
        message: problem_message(lang, problem),
        remedy: Some(problem_remedy(lang, problem)),
        is_warning: !problem.is_error(),
    }
}

fn names(words: &[String]) -> String {
    if words.is_empty() { "なし".to_owned() } else { words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join("、") }
}

fn message(kind: &ProblemKind) -> String {
    match kind {
        ProblemKind::Malformed(fault) => fault_message(fault),
        ProblemKind::UnknownElement { name, .. } => format!("要素 `{name}` はありません。"),
        ProblemKind::Misplaced { name, .. } => format!("要素 `{name}` はここには置けません。"),
        ProblemKind::Repeated { name, first } => format!("要素 `{name}` が 2 回書かれています（最初は {first}）。"),
        ProblemKind::UnexpectedText => "ここには文字列を書けません。".to_owned(),
        ProblemKind::UnknownAttribute { name, .. } => format!("この要素に属性 `{name}` はありません。"),
        ProblemKind::NotSupported { what, .. } => format!("`{what}` はこの版では使えません。"),
        ProblemKind::NotUsed { what, why } => format!("`{what}` は読み込まれますが、効果はありません（{}）。", unused(*why)),
        ProblemKind::WrongMode { what, mode } => format!("`{what}` は mode=\"{mode}\" のモジュールには使えません。"),
        ProblemKind::MissingElement { name } => format!("要素 `{name}` がありません。"),
        ProblemKind::MissingAttribute { name } => format!("属性 `{name}` がありません。"),
        ProblemKind::BadValue { value, .. } => format!("`{value}` は使えません。"),
        ProblemKind::BadPattern { pattern, why } => format!("正規表現 `{pattern}` は使えません（{why}）。"),
        ProblemKind::BadUnit { value, .. } => format!("`{value}` の末尾が時間の単位ではありません。"),
        ProblemKind::TooFine { value, unit } => format!("`{value}` は細かすぎます。この属性は `{unit}` 単位です。"),
        ProblemKind::TooSmall { value, .. } => format!("`{value}` は小さすぎます。"),
        ProblemKind::TooLarge { value, .. } => format!("`{value}` は大きすぎます。"),
        ProblemKind::BadAction { action, when, .. } => format!("動作 `{action}` は when=\"{when}\" では使えません。"),
        ProblemKind::DuplicateVip { addr, first } => format!("仮想 IP アドレス {addr} はすでに {first} にあります。"),
        ProblemKind::VipIsNode { addr, node } => format!("仮想 IP アドレス {addr} は、ノード `{node}` 自身のアドレスです。"),
        ProblemKind::VipOutsideLans { addr, lans } => {
            format!("仮想 IP アドレス {addr} は、クラスターのどのネットワークにも属していません（{}）。", names(lans))
        }
        ProblemKind::DuplicateName { name, first } => format!("名前 `{name}` はすでに {first} で使われています。"),
        ProblemKind::DuplicateAddress { addr, first } => format!("アドレス {addr} はすでに {first} で使われています。"),
        ProblemKind::ReservedName { name } => format!("名前 `{name}` は製品が設定するものです。"),
        ProblemKind::NestedDirectories { dir, other, first } if dir == other => {
            format!("ディレクトリ `{dir}` はすでに {first} で複製されています。")
        }
        ProblemKind::NestedDirectories { dir, other, first } => {
            format!("ディレクトリ `{dir}` は、{first} の複製するディレクトリ `{other}` と重なっています。")
        }
        ProblemKind::DirNotAbsolute { dir } => format!("ディレクトリ `{dir}` が絶対パスではありません。"),
        ProblemKind::BadDirectory { dir } => format!("ディレクトリ `{dir}` は複製できません。"),
        ProblemKind::UnknownMacro { name, .. } => format!("マクロ `{name}` はありません。"),
        ProblemKind::UnknownLan { name, .. } => format!("クラスターにネットワーク `{name}` はありません。"),
        ProblemKind::UnknownNode { name, .. } => format!("モジュールにノード `{name}` はありません。"),
        ProblemKind::NodeNotOnLan { lan, node } => format!("ノード `{node}` にはネットワーク `{lan}` のアドレスがありません。"),
        ProblemKind::NodeCount { found, needed } => format!("モジュールの配置先は {found} 台ですが、{needed} 台必要です。"),
        ProblemKind::FlowWithoutRfs => "複製用のハートビート経路が指定されていますが、複製するものがありません。".to_owned(),
        ProblemKind::NoScripts => "`user` がないため、モジュールのスクリプトは実行されません。".to_owned(),
        ProblemKind::UnknownArbiter { name, .. } => format!("クラスターにアービター `{name}` はありません。"),
        ProblemKind::ArbiterOnNode { arbiter, node } => {
            format!("アービター `{arbiter}` はノード `{node}` で動きます。このノードが故障すると、もう一方は引き継げません。")
        }
        ProblemKind::SplitBrainPossible { authority } => format!(
            "authority=\"{authority}\" では両方のノードが同時にサービスを提供することがあり、完了した書き込みが失われるおそれがあります。"
        ),
        ProblemKind::NotEncrypted => "このアービターとの通信は暗号化されません。経路上の第三者が応答を書き換えられます。".to_owned(),
        ProblemKind::SecondCommandLan { first } => format!("command=\"on\" のネットワークが {first} にもあります。"),
        ProblemKind::Rule(fault) => rule_message(fault),
        ProblemKind::NeedsOneOf { names } => format!("{} のいずれも指定されていません。", self::names(names)),
        ProblemKind::NoCommonLan { missing, lan } => {
            format!("すべてのノードを含むネットワークがありません。最も多い `{lan}` にも {} がありません。", names(missing))
        }
    }
}

fn remedy(kind: &ProblemKind) -> String {
    match kind {
        ProblemKind::Malformed(fault) => fault_remedy(fault),
        ProblemKind::UnknownElement { near: Some(near), .. } | ProblemKind::UnknownAttribute { near: Some(near), .. } => {
            format!("`{near}` の誤りではありませんか。")
        }
        ProblemKind::UnknownElement { near: None, .. } | ProblemKind::UnknownAttribute { near: None, .. } => {
            "削除してください。".to_owned()
        }
        ProblemKind::Misplaced { belongs, .. } => format!("`{belongs}` の中へ移してください。"),
        ProblemKind::Repeated { .. } => "どちらか一方だけを残してください。".to_owned(),
        ProblemKind::UnexpectedText => "削除するか、コメント <!-- … --> にしてください。".to_owned(),
        ProblemKind::NotSupported { instead: Some(instead), .. } => format!("代わりに次を使ってください：{}", instead_ja(instead)),
        ProblemKind::NotSupported { instead: None, .. } => "削除してください。".to_owned(),
        ProblemKind::NotUsed { .. } => "削除してかまいません。".to_owned(),
        ProblemKind::WrongMode { .. } => "削除するか、モジュールの mode を変更してください。".to_owned(),
        ProblemKind::MissingElement { name } => format!("この要素の中に <{name}> を追加してください。"),
        ProblemKind::MissingAttribute { name } => format!("{name}=\"…\" を追加してください。"),
        ProblemKind::BadValue { expected, .. } => expected_words(expected),
        ProblemKind::BadPattern { .. } => {
            "正規表現を直してください。記号を文字そのものとして使うときは、`\\.`、`\\*`、`\\{` のように前に `\\` を付けます。".to_owned()
        }
        ProblemKind::BadUnit { allowed, .. } => format!("整数の後に単位（{}）を付けてください。", names(allowed)),
        ProblemKind::TooFine { unit, .. } => format!("`{unit}` 単位の整数にしてください。"),
        ProblemKind::TooSmall { least, .. } => at_limit(least, "以上"),
        ProblemKind::TooLarge { most, .. } => at_limit(most, "以下"),
        ProblemKind::BadAction { allowed, .. } => format!("次のいずれかにしてください：{}", names(allowed)),
        ProblemKind::DuplicateVip { .. } => "どちらか一方を削除してください。".to_owned(),
        ProblemKind::VipIsNode { .. } => "同じネットワークで、どの機器も使っていないアドレスを選んでください。".to_owned(),
        ProblemKind::VipOutsideLans { .. } => {
            "アドレスを確認してください。クラスター外のネットワークの場合は、インターフェイスを指定してください。".to_owned()
        }
        ProblemKind::DuplicateName { .. } | ProblemKind::ReservedName { .. } => "別の名前にしてください。".to_owned(),
        ProblemKind::DuplicateAddress { .. } => "ネットワークごとに、ノードに固有のアドレスを割り当ててください。".to_owned(),
        ProblemKind::NestedDirectories { dir, other, .. } if dir == other => "どちらか一方を削除してください。".to_owned(),
        ProblemKind::NestedDirectories { .. } => "外側のディレクトリだけを指定してください。".to_owned(),
        ProblemKind::DirNotAbsolute { .. } => "/ から始まるパスで書いてください。".to_owned(),
        ProblemKind::BadDirectory { .. } => {
            "1 つのアプリケーションのデータだけを含むディレクトリを、`.`、`..`、`//` を使わずに書いてください。".to_owned()
        }
        ProblemKind::UnknownMacro { near: Some(near), .. } => format!("`%{near}%` の誤りではありませんか。"),
        ProblemKind::UnknownMacro { name, near: None } => {
            format!("<safe> の中に <macro name=\"{name}\" value=\"…\"/> を追加してください。")
        }
        ProblemKind::UnknownLan { known, .. } => format!("クラスターのネットワーク：{}", names(known)),
        ProblemKind::UnknownNode { known, .. } => format!("モジュールのノード：{}", names(known)),
        ProblemKind::NodeNotOnLan { .. } => {
            "cluster.xml でそのネットワークにノードを追加するか、別のネットワークを使ってください。".to_owned()
        }
        ProblemKind::NodeCount { needed, .. } => format!("ノードを {needed} 台選んでください。"),
        ProblemKind::FlowWithoutRfs => "ident=\"flow\" を削除するか、`rfs` を追加してください。".to_owned(),
        ProblemKind::NoScripts => "スクリプトがある場合は <user/> を追加してください。".to_owned(),
        ProblemKind::UnknownArbiter { known, .. } => format!("クラスターのアービター：{}", names(known)),
        ProblemKind::ArbiterOnNode { .. } => {
            "3 台目のマシンで動かしてください。ない場合は、`witness` に own=\"true\" と書いてください。".to_owned()
        }
        ProblemKind::SplitBrainPossible { .. } => {
            "authority=\"arbiter\" を使ってください。危険を承知で使う場合は、`service` に allow_split_brain=\"true\" と書いてください。"
                .to_owned()
        }
        ProblemKind::NotEncrypted => "https:// を使ってください。".to_owned(),
        ProblemKind::SecondCommandLan { .. } => "1 つのネットワークだけに残してください。".to_owned(),
        ProblemKind::Rule(fault) => rule_remedy(fault),
        ProblemKind::NeedsOneOf { names } => format!("{} の少なくとも 1 つを追加してください。", self::names(names)),
        ProblemKind::NoCommonLan { lan, .. } => format!("`{lan}` に足りないノードを追加してください。"),
    }
}

fn unused(why: UnusedReason) -> &'static str {
    match why {
        UnusedReason::ChosenByItself => "製品が自動で決めます",
        UnusedReason::AlwaysDone => "同等以上の動作を常に行います",
        UnusedReason::ConnectionsCut => "アドレスを外すときは、その接続を必ず切断します",
        UnusedReason::NeverDone => "行わない処理で、影響はありません",
        UnusedReason::NotYet => "この版にはありませんが、モジュールの動作に影響はありません",
        UnusedReason::OtherSystem => "他の OS 用の設定です",
        UnusedReason::TimesOfHeart => "`heart` の時間が使われます",
        UnusedReason::OtherAuthority => "別の `authority` の設定です",
        UnusedReason::OtherDriver => "`agent` が優先されます",
    }
}

/// What the reader proposes instead, a half sentence with code in it.
fn instead_ja(instead: &str) -> String {
    const KNOWN: &[(&str, &str)] = &[
        ("the action `stopstart`, which does not restart the machine", "動作 `stopstart`（マシンは再起動しません）"),
        ("the scripts of the module", "モジュールのスクリプト"),
        ("the order `prim` with acceptance of the loss", "損失を承知したうえでの `prim` の指示"),
        ("real-time replication", "リアルタイムの複製"),
        ("the virtual address, or a name that DNS gives it", "仮想 IP アドレス、または DNS で付けた名前"),
        ("`name` with a network of cluster.xml", "cluster.xml のネットワークを指定した `name`"),
        (
            "`real_interface`; the move of the address is announced to its network",
            "`real_interface`（アドレスの移動はネットワークに通知されます）",
        ),
    ];
    let known = KNOWN.iter().find(|(en, _)| *en == instead).map(|(_, ja)| (*ja).to_owned());
    // The rest are lists of code: `a`, `b` or `c`.
    known.unwrap_or_else(|| instead.replace("`, `", "`、`").replace("` or `", "`、`"))
}

/// Keeps to a limit; the reader adds a few English words to some limits.
fn at_limit(limit: &str, side: &str) -> String {
    if let Some(limit) = limit.strip_suffix(" (or a larger `timeout`)") {
        return format!("{limit} {side}にするか、`timeout` を大きくしてください。");
    }
    if let Some((limit, attribute)) = limit.split_once(", the value of ") {
        return format!("{limit}（{attribute} の値）{side}にしてください。");
    }
    match limit.split_once(", as `of` is ") {
        Some((limit, of)) => format!("`of` が {of} のときは {limit} {side}にしてください。"),
        None => format!("{} {side}にしてください。", limit.replace(" bytes", " バイト")).replace("バイト 以", "バイト以"),
    }
}

fn expected_words(expected: &Expected) -> String {
    match expected {
        Expected::OneOf(words) => format!("次のいずれかにしてください：{}", names(words)),
        Expected::Number { least, most } => format!("{least}〜{most} の整数にしてください。"),
        Expected::Time => "整数に、必要なら単位を付けて書いてください（`10s`、`500ms`）。".to_owned(),
        Expected::Address => "IPv4 または IPv6 アドレスを書いてください（名前は使えません）。".to_owned(),
        Expected::AddressOrName => "IPv4 または IPv6 アドレス、またはホスト名を書いてください。".to_owned(),
        Expected::Netmask => "`255.255.255.0` のようなネットマスクか、`24` のようなプレフィックス長を書いてください。".to_owned(),
        Expected::Name => "a-z、A-Z、0-9、`-`、`_`、`.` を 1〜63 文字、先頭は英数字にしてください。".to_owned(),
        Expected::VariableName => "英字、数字、`_` だけを使い、先頭を数字以外にしてください。".to_owned(),
        Expected::InterfaceName => "`eth0` のようなネットワークインターフェイス名を 15 バイト以内で書いてください。".to_owned(),
        Expected::RelativePath => "複製するディレクトリからの相対パスを、`.`、`..`、`//` を使わずに書いてください。".to_owned(),
        Expected::NamePattern => format!(
            "名前に対する POSIX 拡張正規表現か、`!` に続けた正規表現を、{NAME_PATTERN_BYTES_MAX} バイト以内で、`<` と `>` を使わずに書いてください。"
        ),
        Expected::CommandName => {
            "パスを除いたコマンド名を 15 バイト以内で書くか（カーネルが保持する長さです）、`nameregex` を使ってください。".to_owned()
        }
        Expected::Url => {
            "`http://ホスト[:ポート]/パス` または `https://…` の形で書いてください（ユーザー名、パスワード、`#` は使えません）。".to_owned()
        }
        Expected::StatusCodes => "100〜599 のコードを `200`、`200-399` の形で、複数の場合はカンマで区切って書いてください。".to_owned(),
        Expected::AbsolutePath => "/ から始まるパスで書いてください。".to_owned(),
        Expected::ScriptName => "モジュールの `bin` にあるファイルの名前を書いてください。".to_owned(),
        Expected::UnitName => "`nginx` や `backup.timer` のような systemd のユニット名を書いてください。".to_owned(),
        Expected::Program => "モジュールの `bin` にあるファイルの名前か、絶対パスを書いてください。".to_owned(),
        Expected::NotEmpty => "値を書いてください。".to_owned(),
        Expected::OneLine => "改行を入れずに書いてください。".to_owned(),
        Expected::Addresses => "IPv4 または IPv6 アドレスを空白で区切って書いてください（名前は使えません）。".to_owned(),
        Expected::Endpoints => {
            "`https://アドレス:ポート` の形で、複数はカンマで区切って書いてください（名前は使えません。`https` か `http` のどちらかに揃えます）。".to_owned()
        }
        Expected::FenceAgent => "`fence_ipmilan` のような fence-agents パッケージのプログラム名か、絶対パスを書いてください。".to_owned(),
    }
}

/// What the reader expected, where it says so in words.
fn expected_ja(expected: &str) -> &str {
    match expected {
        "the name of an element" => "要素の名前",
        "`=` and a value in quotes" => "`=` と引用符で囲んだ値",
        "a value in quotes" => "引用符で囲んだ値",
        "a quote before the value" => "値の前の引用符",
        "well-formed XML" => "正しい形式の XML",
        code => code,
    }
}

fn rule_expected_ja(expected: &str) -> String {
    match expected {
        "a label" => "ルールの名前".to_owned(),
        "an action" => "動作".to_owned(),
        "a resource or a state" => "リソースまたは状態".to_owned(),
        code => format!(" {} ", code.replace("`, `", "`、`").replace("` or `", "`、`")),
    }
}

fn rule_message(fault: &RuleFault) -> String {
    match fault {
        RuleFault::Unexpected { found, expected } if found.is_empty() => {
            format!("ルールが途中で終わっています。{}が必要です。", rule_expected_ja(expected).trim_start())
        }
        RuleFault::Unexpected { found, expected } => format!("`{found}` の位置には{}が必要です。", rule_expected_ja(expected)),
        RuleFault::UnknownClass { name, .. } => format!("リソースの種類 `{name}` はありません。"),
        RuleFault::UnknownResource { name, .. } => {
            format!("リソース `{name}` を設定するものがこの構成にないため、ルールは変化を検知できません。")
        }
        RuleFault::UnknownAction { name, .. } => format!("動作 `{name}` はありません。"),
        RuleFault::StateAlone { state } => format!("`{state}` だけでは条件になりません。"),
        RuleFault::MixedComparison => "条件と状態を比較しています。".to_owned(),
        RuleFault::NeverUnknown { name } => format!("`{name}` は自ノードのリソースなので、`unknown` にはなりません。"),
        RuleFault::NoSwap => "このモジュールには、役割を引き継ぐ相手ノードがありません。".to_owned(),
        RuleFault::NoRemote => "このモジュールには、`remote.` が指す相手ノードがありません。".to_owned(),
        RuleFault::Lua => {
            "Lua 形式のルールは読み込めません。ルールは使う前に検査しますが、プログラムの動作は検査できないためです。".to_owned()
        }
        RuleFault::DuplicateLabel { label } => format!("ルールの名前 `{label}` はすでに使われています。"),
        RuleFault::TooDeep { most } => format!("括弧と `!` の入れ子が {most} 段を超えています。"),
        RuleFault::TooLong { most } => format!("ルールが {most} バイトを超えています。"),
        RuleFault::TooMany { most } => format!("ルールの数が {most} を超えています。"),
        RuleFault::WithoutDefaults => {
            "extends=\"no\" では、チェッカー自身の動作は行われず、ここに書いたルールだけが有効になります。".to_owned()
        }
    }
}

fn rule_remedy(fault: &RuleFault) -> String {
    let meant = |near: &Option<String>, otherwise: String| near.as_ref().map_or(otherwise, |n| format!("`{n}` の誤りではありませんか。"));
    match fault {
        RuleFault::Unexpected { .. } => "ルールは `label: if (tcp.web == down) then restart();` の形で書いてください。".to_owned(),
        RuleFault::UnknownClass { near, .. } => meant(near, format!("次のいずれかにしてください：{}", RESOURCE_CLASSES.join("、"))),
        RuleFault::UnknownResource { near, .. } => meant(near, "チェッカーを追加するか、名前を直してください。".to_owned()),
        RuleFault::UnknownAction { near, .. } => {
            meant(near, "`restart()`、`swap()`、`wait()`、`stopstart()`、`stop()` のいずれかにしてください。".to_owned())
        }
        RuleFault::StateAlone { state } => format!("`tcp.web == {state}` のように、リソースと比較してください。"),
        RuleFault::MixedComparison => "リソースと状態、または条件どうしを比較してください。".to_owned(),
        RuleFault::NeverUnknown { .. } => "`init` と書くか、リソースの前に `remote.` を付けてください。".to_owned(),
        RuleFault::NoSwap => "`restart()`、`stopstart()`、`stop()`、`wait()` のどれかを書いてください。".to_owned(),
        RuleFault::NoRemote => "相手ノードを参照する部分を削除してください。".to_owned(),
        RuleFault::Lua => "各ルールを `label: if (…) then action();` の形で書いてください。".to_owned(),
        RuleFault::DuplicateLabel { .. } => "別の名前にしてください。".to_owned(),
        RuleFault::TooDeep { .. } | RuleFault::TooLong { .. } | RuleFault::TooMany { .. } => "短くしてください。".to_owned(),
        RuleFault::WithoutDefaults => "チェッカーのルールに追加するだけなら、この属性を削除してください。".to_owned(),
    }
}

fn fault_message(fault: &Fault) -> String {
    match fault {
        Fault::WrongEndTag { open, opened, found } => {
            format!("</{open}> が必要なところに </{found}> があります（<{open}> は {opened} で始まっています）。")
        }
        Fault::LoneEndTag { found } => format!("</{found}> に対応する開始タグがありません。"),
        Fault::NeverClosed { open } => format!("<{open}> が閉じられていません。"),
        Fault::CutOff { expected } => format!("終わりがありません。`{expected}` が必要です。"),
        Fault::Syntax { expected } | Fault::BadAttribute { expected } => format!("ここには{}が必要です。", spaced(expected_ja(expected))),
        Fault::AttributeTwice { first } => format!("この属性はすでに {first} にあります。"),
        Fault::UnknownEntity { name } => format!("実体参照 `&{name};` はありません。"),
        Fault::Doctype => "DOCTYPE に名前以外のものがあります。".to_owned(),
        Fault::NoRoot => "要素がありません。".to_owned(),
        Fault::OutsideRoot => "最も外側の要素の外に何かが書かれています。".to_owned(),
        Fault::TooLong { bytes, most } => format!("{bytes} バイトあります。読み込めるのは {most} バイトまでです。"),
        Fault::TooDeep { most } => format!("要素の入れ子が {most} 段を超えています。"),
        Fault::TooMany { most } => format!("要素と属性の数が {most} を超えています。"),
    }
}

/// Half-width text inside Japanese has a space on either side.
fn spaced(text: &str) -> String {
    let at = |c: Option<char>| if c.is_some_and(|c| c.is_ascii()) { " " } else { "" };
    format!("{}{text}{}", at(text.chars().next()), at(text.chars().last()))
}

fn fault_remedy(fault: &Fault) -> String {
    match fault {
        Fault::WrongEndTag { open, .. } => format!("その前に </{open}> を書くか、名前を直すか、削除してください。"),
        Fault::LoneEndTag { .. } => "削除するか、開始タグを追加してください。".to_owned(),
        Fault::NeverClosed { open } => format!("</{open}> を追加するか、<{open}/> と書いてください。"),
        Fault::CutOff { expected } => format!("`{expected}` を追加してください。"),
        Fault::Syntax { .. } => "文字そのものを表すには `&lt;` や `&amp;` と書いてください。".to_owned(),
        Fault::BadAttribute { .. } => "属性は name=\"value\" の形で書いてください。".to_owned(),
        Fault::AttributeTwice { .. } => "どちらか一方だけを残してください。".to_owned(),
        Fault::UnknownEntity { .. } => "&lt; &gt; &amp; &quot; &apos; または文字番号を使ってください。".to_owned(),
        Fault::Doctype => "<!DOCTYPE safe> と書くか、削除してください。".to_owned(),
        Fault::NoRoot => "最も外側の要素から書き始めてください。".to_owned(),
        Fault::OutsideRoot => "削除するか、要素の中へ移してください。".to_owned(),
        Fault::TooLong { .. } => "短くしてください。".to_owned(),
        Fault::TooDeep { .. } | Fault::TooMany { .. } => "設定ファイルかどうか確認してください。".to_owned(),
    }
}
