// Keeps the page as the server has it. One request at a time, none while the page
// is hidden, each with a limit, and fewer when the server does not answer. Only
// parts that differ are exchanged; one in which text is selected waits.
"use strict";
(() => {
	const every = 1000, limit = 8000, slowest = 15000;
	const root = document.documentElement;
	const get = (id) => document.getElementById(id);
	const main = get("main");

	let tag = main.dataset.tag;
	let asOf = get("age").querySelector("time").textContent; // the server's clock
	let seen = Date.now(); // when it last answered
	let fails = 0, timer = 0, request = null, ended = false;

	function show(state, text) {
		get("connection").dataset.state = state;
		get("age").textContent = text;
	}

	function brief(ms) {
		const s = Math.max(0, Math.round(ms / 1000));
		if (s < 120) return s + " s";
		return s < 7200 ? Math.floor(s / 60) + " min" : Math.floor(s / 3600) + " h " + Math.floor(s / 60) % 60 + " min";
	}

	function live(held) {
		fails = 0;
		seen = Date.now();
		delete root.dataset.old;
		get("lost").hidden = true;
		show("live", "Live, as of " + asOf + " UTC" + (held ? "; parts wait while text is selected" : ""));
	}

	function lost(what) {
		fails++;
		if (fails < 2 && Date.now() - seen < limit) return; // one answer may get lost
		root.dataset.old = "";
		get("lost-what").textContent = what;
		get("lost").hidden = false;
		age();
	}

	function end() {
		ended = true;
		root.dataset.old = "";
		get("lost-what").textContent = "Your sign-in has ended.";
		get("again").hidden = false;
		get("lost").hidden = false;
		age();
	}

	// age says how old the page is, once it is not kept any more.
	function age() {
		if (!("old" in root.dataset)) return;
		const old = brief(Date.now() - seen) + " old";
		show(ended ? "ended" : "lost", (ended ? "Signed out, " : "Connection lost, ") + old);
		get("lost-how").textContent = "This page shows how things stood at " + asOf + " UTC; it is " + old + "." + (ended ? "" : " Trying again.");
	}

	function holds(block) {
		const selection = getSelection();
		return !selection.isCollapsed && selection.containsNode(block, true);
	}

	// exchange puts the parts of a new page into this one and reports whether all
	// could be put.
	function exchange(html) {
		const fresh = new DOMParser().parseFromString(html, "text/html").querySelector("main");
		const news = [];
		let at = main.firstElementChild, all = true;
		for (const block of [...fresh.children]) {
			if (!at || at.id !== block.id) {
				main.insertBefore(block, at);
				continue;
			}
			const next = at.nextElementSibling;
			const changed = at.dataset.version !== block.dataset.version;
			if (changed) news.push("Ring " + block.dataset.ring + " is now at version " + block.dataset.version + ".");
			if (holds(at)) {
				all = false;
			} else if (!same(at, block)) {
				if (changed) block.classList.add("changed");
				at.replaceWith(block);
			}
			at = next;
		}
		while (at) {
			const next = at.nextElementSibling;
			at.remove();
			at = next;
		}
		if (news.length) get("announce").textContent = news.join(" ");
		return all;
	}

	function same(a, b) {
		const mark = a.classList.contains("changed");
		a.classList.remove("changed");
		const equal = a.isEqualNode(b);
		if (equal && mark) a.classList.add("changed");
		return equal;
	}

	async function ask() {
		request = new AbortController();
		const mine = request;
		const bell = setTimeout(() => mine.abort(), limit);
		try {
			const answer = await fetch(main.dataset.live, {
				headers: { "If-None-Match": tag }, cache: "no-store", credentials: "same-origin", redirect: "error", signal: mine.signal,
			});
			if (answer.status === 401) return end();
			if (answer.status !== 200 && answer.status !== 304) return lost("The policy server answers with error " + answer.status + ".");
			const body = answer.status === 200 ? await answer.text() : "";
			const date = new Date(answer.headers.get("Date"));
			if (!isNaN(date)) asOf = date.toISOString().slice(11, 19);
			const all = answer.status === 304 || exchange(body);
			tag = all ? answer.headers.get("ETag") : "";
			live(!all);
		} catch {
			if (document.visibilityState === "visible") lost("The policy server does not answer.");
		} finally {
			clearTimeout(bell);
			if (request === mine) {
				request = null;
				plan();
			}
		}
	}

	function plan() {
		clearTimeout(timer);
		if (ended || document.visibilityState !== "visible") return;
		const wait = Math.min(every * 2 ** Math.max(0, fails - 1), slowest);
		timer = setTimeout(ask, wait * (0.9 + Math.random() / 5));
	}

	document.addEventListener("visibilitychange", () => {
		clearTimeout(timer);
		if (document.visibilityState === "visible") {
			if (!ended && !request) ask();
			return;
		}
		if (request) {
			const old = request;
			request = null;
			old.abort();
		}
	});
	setInterval(age, 1000);
	ask();
})();
