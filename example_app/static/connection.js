// The badge, the button that cuts the connection, and the word about what was missed.

const badge = document.querySelector("#badge");
const words = document.querySelector("#state");
const button = document.querySelector("#cut");
const transports = { websocket: "WebSocket", polling: "polling" };

export function showConnection(live, messages, tell) {
  let wasLive = false;
  let away = null; // since when, and which messages were known then
  let cut = false;

  live.status.subscribe((state) => {
    badge.dataset.state = state;
    words.textContent = live.transport ? `${state} · ${transports[live.transport]}` : state;
    // A login that has ended (103) is told in place of the messages.
    const { error } = live;
    if (state === "refused" && error?.code !== 103) tell(`This page is not live any more: ${error?.message}`);
    if (state === "offline" && wasLive) away ??= { since: Date.now() };
    // The last time is after the connection is back and before anything is caught up with.
    if (away && state !== "live") away.known = new Set(messages.getSnapshot().map((row) => row.id));
    if (state !== "live") return;
    // By now every store has what was missed.
    wasLive = true;
    if (away) tell(report(away));
    away = null;
  });

  function report({ since, known }) {
    const seconds = Math.round((Date.now() - since) / 1000);
    const missed = messages.getSnapshot().filter((row) => !known.has(row.id)).length;
    const what = missed === 1 ? "1 message" : missed ? `${missed} messages` : "nothing missed";
    return `Back after ${seconds} s: ${what}${missed ? " caught up." : "."}`;
  }

  // What a tunnel or a closed lid does, at the press of a button.
  button.addEventListener("click", () => {
    cut = !cut;
    button.textContent = cut ? "Reconnect" : "Cut the connection";
    if (cut) {
      live.disconnect();
      tell("Cut off. Reconnect to see what you miss.");
    } else {
      live.connect();
    }
  });
}
