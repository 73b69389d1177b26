// A dashboard whose connection ends loads anew as soon as it can: after a restart, or when the
// network was away. Bokeh itself does not.
"use strict";

(() => {
  const Plain = window.WebSocket;
  // Where the site has no name for each cluster, it is below a path.
  const base = (location.pathname.match(/^\/c\/[a-z0-9]{16}(?=\/)/) || [""])[0];
  let waiting = false;

  async function wait() {
    if (waiting) return;
    waiting = true;
    for (let tries = 0; tries < 3600; tries++) {
      // The first soon, where the name leads to another login node too; not of all pages at once.
      const pause = tries ? 1000 : 300 + 500 * Math.random();
      await new Promise((done) => setTimeout(done, pause));
      try {
        // What hangs at a node that is away is begun anew: the system itself tries ever less often.
        const asked = { cache: "no-store", redirect: "manual" };
        if (AbortSignal.timeout) asked.signal = AbortSignal.timeout(5000);
        const answer = await fetch(base + "/health", asked);
        if (answer.ok || answer.status === 401 || answer.status === 403) break;
      } catch {
        // Nothing answers yet.
      }
    }
    location.reload();
  }

  window.WebSocket = class extends Plain {
    constructor(...given) {
      super(...given);
      let opened = false;
      this.addEventListener("open", () => { opened = true; });
      this.addEventListener("close", () => { if (opened && !leaving) wait(); });
    }
  };
  let leaving = false;
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("pageshow", () => { leaving = false; });
})();
