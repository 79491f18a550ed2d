/* Keeps a page current, opens dialogs, ticks ages. Everything works without it. */
(function () {
  "use strict";
  const body = document.body;
  const $ = (id) => document.getElementById(id);
  const words = $("words") ? $("words").dataset : {};
  const pill = $("live-pill");
  const stale = $("stale");

  /* Times: the server writes its own zone and an age as of rendering; here both follow the browser. */
  const two = (n) => String(n).padStart(2, "0");
  const skew = Number(body.dataset.now || Date.now()) - Date.now();
  const now = () => Date.now() + skew;
  const fill = (text, values) => (text || "").replace(/\{(\w+)\}/g, (_, k) => values[k]);
  const clock = (d) => two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds());
  const day = (d) => d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate());
  function ago(ms) {
    const minutes = Math.floor(Math.max(0, now() - ms) / 60000);
    if (minutes < 1) return words.just;
    if (minutes < 60) return fill(words.min, { n: minutes });
    if (minutes < 2880) return fill(words.hour, { n: Math.floor(minutes / 60) });
    return fill(words.day, { n: Math.floor(minutes / 1440) });
  }
  function put(el, text) { if (text && el.textContent !== text) el.textContent = text; }
  function tick() {
    const today = day(new Date());
    for (const el of document.querySelectorAll("time[datetime]")) {
      const at = new Date(el.dateTime);
      if ("ago" in el.dataset) put(el, ago(at.getTime()));
      else if ("clock" in el.dataset) put(el, clock(at));
      else if ("date" in el.dataset) put(el, day(at) + " " + clock(at));
      else if ("when" in el.dataset) put(el, day(at) === today ? clock(at) : day(at).slice(5) + " " + clock(at).slice(0, 5));
    }
    for (const el of document.querySelectorAll("[data-done-at]")) {
      const minutes = Math.ceil((Number(el.dataset.doneAt) - now()) / 60000);
      if (minutes < 60) put(el, minutes < 2 ? words.leftOne : fill(words.leftMin, { n: minutes }));
    }
    watch();
  }

  /* Applying a block: the element of that id becomes what came. Focus, open menus and typed text stay. */
  const keep = {
    beforeAttributeUpdated: (name, node) => !(name === "open" && /^(DETAILS|DIALOG)$/.test(node.nodeName)),
    beforeNodeMorphed: (node) => !(node.nodeType === 1 && node.matches("input,textarea,select") && node === document.activeElement),
  };
  function morph(el, html) {
    Idiomorph.morph(el, html, { morphStyle: "outerHTML", ignoreActiveValue: true, restoreFocus: true, callbacks: keep });
    const fresh = $(el.id);
    if (fresh && window.htmx) htmx.process(fresh);
    ready(fresh || document);
  }
  let said = "", lastSaid = 0, toSay = 0;
  function announce() {
    const lead = document.querySelector(".banner .lead") || document.querySelector("#attention h2 + .chip");
    const text = lead ? lead.textContent.trim().replace(/[（(]?\d+\s*%[)）]?/, "") : "";
    if (!text || text === said) return;
    clearTimeout(toSay);
    const wait = Math.max(0, lastSaid + 5000 - Date.now());
    toSay = setTimeout(() => { if (said) put($("announce"), lead.textContent.trim()); said = text; lastSaid = Date.now(); }, wait);
  }
  function apply(items) {
    if (!items || !items.length) return;
    /* The stream sends the blocks of the whole page; one with a filter is fetched as it is. */
    if (location.search) { reload(); return; }
    let isWhole = true;
    for (const item of items) {
      const el = $(item.id);
      if (el) morph(el, item.html); else isWhole = false;
    }
    announce();
    if (!isWhole) reload();
  }

  /* The page anew, without losing place or focus; one at a time, at most one in two seconds, and none is forgotten. */
  let reloading = false, lastReload = 0, laterReload = 0;
  async function reload(isReset) {
    const wait = lastReload + 2000 - Date.now();
    if (reloading || wait > 0) {
      clearTimeout(laterReload);
      laterReload = setTimeout(() => reload(isReset), Math.max(wait, 500));
      return;
    }
    reloading = true;
    lastReload = Date.now();
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) { location.href = answer.url; return; }
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = page.getElementById("main");
      if (!main) return;
      morph($("main"), main.outerHTML);
      at.epoch = page.body.dataset.epoch;
      at.seq = Number(page.body.dataset.seq);
      heard();
      if (isReset && !isPolling) restart();
    } catch { /* the next frame or attempt brings it */ } finally { reloading = false; }
  }

  /* The stream. */
  const at = { epoch: body.dataset.epoch, seq: Number(body.dataset.seq || 0), scope: body.dataset.scope };
  const STALE_MS = 20000, SLOW_RETRY_MS = 300000, STABLE_MS = 5000;
  let socket = null, opened = 0, tries = 0, bad = 0, isPolling = false, timer = 0, lastFrame = Date.now(), closedAt = 0, polled = 0;
  const query = () => "scope=" + encodeURIComponent(at.scope) + "&epoch=" + encodeURIComponent(at.epoch) + "&since=" + at.seq;

  function show(state, word) {
    if (!pill) return;
    pill.dataset.state = state;
    put(pill.querySelector("[data-word]"), word);
  }
  function heard() {
    lastFrame = Date.now();
    closedAt = 0;
    const time = pill && pill.querySelector("time");
    if (time) { time.dateTime = new Date().toISOString(); put(time, clock(new Date())); }
    if (body.classList.contains("is-stale")) {
      body.classList.remove("is-stale");
      stale.classList.add("back");
      put(stale.querySelector("[data-word]"), words.back);
      setTimeout(() => { stale.hidden = true; stale.classList.remove("back"); }, 3000);
    }
    show(isPolling ? "slow" : "on", isPolling ? words.slow : words.live);
  }
  function watch() {
    if (!at.scope) return;
    const silent = Date.now() - lastFrame;
    if (closedAt && Date.now() - closedAt > 5000) show("wait", words.reconnecting);
    if (silent > STALE_MS && !body.classList.contains("is-stale")) {
      body.classList.add("is-stale");
      stale.classList.remove("back");
      put(stale.querySelector("[data-word]"), fill(words.stale, { time: clock(new Date(lastFrame)) }));
      stale.hidden = false;
      show("wait", words.reconnecting);
      if (socket) restart();
    }
  }
  function take(frame) {
    heard();
    if (frame.t === "reset") { reload(true); return; }
    if (frame.t === "delta") apply(frame.items);
    if (typeof frame.seq === "number") at.seq = Math.max(at.seq, frame.seq);
  }
  /* A socket that may hang is left to itself: waiting for its close could take minutes. */
  function restart() {
    const old = socket;
    socket = null;
    if (old) { old.onclose = old.onmessage = null; old.close(4000); }
    again(0);
  }
  function again(ms) { clearTimeout(timer); timer = setTimeout(connect, ms); }
  function connect() {
    if (!at.scope || (socket && socket.readyState < 2)) return;
    clearTimeout(timer);
    const url = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/ws/live?" + query();
    let isOpen = false;
    try { socket = new WebSocket(url, "tsugi.live.v1+html"); } catch { poll(); return; }
    const mine = socket;
    mine.onopen = () => { isOpen = true; opened = Date.now(); isPolling = false; heard(); };
    mine.onmessage = (event) => {
      let frame;
      try { frame = JSON.parse(event.data); } catch { return; }
      if (Date.now() - opened > STABLE_MS) { tries = 0; bad = 0; }
      take(frame);
    };
    mine.onclose = (event) => {
      if (socket !== mine) return;
      socket = null;
      closedAt = closedAt || Date.now();
      if (event.code === 4401 || event.code === 4403) { location.reload(); return; }
      /* Proxies that cut WebSockets: two refused handshakes or three early deaths, then ask instead of listen. */
      if (!isOpen) bad += 1.5; else if (Date.now() - opened < STABLE_MS) bad += 1; else bad = 0;
      if (bad >= 3) { poll(); return; }
      tries += 1;
      again(Math.random() * Math.min(30000, 500 * 2 ** tries));
    };
  }
  async function poll() {
    if (!isPolling) { isPolling = true; polled = Date.now(); }
    if (Date.now() - polled > SLOW_RETRY_MS) { listen(); return; }
    const stop = new AbortController();
    const limit = setTimeout(() => stop.abort(), 30000);
    try {
      const answer = await fetch("/live/deltas?" + query() + "&wait=10", { credentials: "same-origin", signal: stop.signal });
      if (answer.status === 401) { location.reload(); return; }
      if (answer.status === 410) take({ t: "reset" });
      else if (!answer.ok) throw new Error(answer.status);
      else take(Object.assign({ t: "delta" }, await answer.json()));
      setTimeout(poll, 250);
    } catch {
      /* A wait that was cut is asked again; a console that is away is waited for by the socket. */
      if (stop.signal.aborted) setTimeout(poll, 5000); else listen();
    } finally { clearTimeout(limit); }
  }
  function listen() {
    isPolling = false;
    bad = 0;
    tries += 1;
    again(Math.random() * Math.min(30000, 500 * 2 ** tries));
  }

  /* Dialogs, copying, greyed buttons, the editor. */
  function ready(root) {
    if (navigator.clipboard) for (const el of root.querySelectorAll("[data-copy][hidden]")) el.hidden = false;
  }
  let opener = null;
  document.addEventListener("click", (event) => {
    const off = event.target.closest("[aria-disabled=true]");
    if (off || (body.classList.contains("is-stale") && event.target.closest("main [hx-get]"))) { event.preventDefault(); event.stopPropagation(); return; }
    const copy = event.target.closest("[data-copy]");
    if (copy) navigator.clipboard.writeText(copy.dataset.copy).then(() => put($("announce"), words.copied));
    const close = event.target.closest("[data-close]");
    const dialog = close && close.closest("dialog");
    if (dialog) { event.preventDefault(); dialog.close(); }
    const line = event.target.closest("[data-line]");
    if (line && Number(line.dataset.line) > 0) { event.preventDefault(); go(line); }
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
    const verb = event.target.closest("[hx-get]");
    if (verb) { opener = verb; const menu = verb.closest("details.menu"); if (menu) menu.open = false; }
  }, true);
  function marks() {
    for (const gutter of document.querySelectorAll(".gutter")) {
      const id = gutter.parentElement.querySelector("textarea").id;
      const bad = new Set(Array.from(document.querySelectorAll('[data-line][href="#' + id + '"]'), (a) => Number(a.dataset.line)));
      Array.from(gutter.children).forEach((li, i) => li.classList.toggle("bad", bad.has(i + 1)));
    }
  }
  document.addEventListener("htmx:afterSwap", (event) => {
    marks();
    const dialog = event.target.id === "dialog-slot" && $("dialog");
    if (!dialog || !dialog.showModal) return;
    dialog.addEventListener("close", () => { $("dialog-slot").textContent = ""; if (opener && opener.isConnected) opener.focus(); });
    dialog.showModal();
  });
  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(name, (event) => {
    /* The link itself leads to the same thing as a page. */
    const from = event.detail && event.detail.elt;
    if (from && from.href) location.href = from.href; else put($("announce"), words.failed);
  });
  function go(link) {
    const field = document.querySelector(link.getAttribute("href"));
    if (!field) return;
    const box = field.closest("details");
    if (box) box.open = true;
    const lines = field.value.split("\n");
    const line = Math.min(Number(link.dataset.line), lines.length);
    const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    field.focus();
    field.setSelectionRange(start + Math.max(0, Number(link.dataset.column) - 1), start + lines[line - 1].length);
    const editor = field.closest(".editor");
    if (editor) editor.scrollTop = Math.max(0, (line - 5) * 20);
  }
  document.addEventListener("input", (event) => {
    const gutter = event.target.matches(".editor textarea") && event.target.closest(".editor").querySelector(".gutter");
    if (!gutter) return;
    const rows = Math.max(12, event.target.value.split("\n").length + 1);
    event.target.rows = rows;
    while (gutter.children.length > rows) gutter.lastChild.remove();
    while (gutter.children.length < rows) { const li = document.createElement("li"); li.textContent = gutter.children.length + 1; gutter.append(li); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input,textarea,select")) return;
    const field = event.key === "/" && document.querySelector("[data-key='/']");
    if (field) { event.preventDefault(); field.focus(); }
  });

  window.addEventListener("online", () => again(0));
  document.addEventListener("visibilitychange", () => { if (!document.hidden && (!socket || socket.readyState > 1) && !isPolling) again(0); });
  ready(document);
  tick();
  setInterval(tick, 1000);
  connect();
})();
