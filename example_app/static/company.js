// Who else is here, and who is writing. Both go through the room, and nobody stores them.

/** Milliseconds that a word of somebody's writing holds. */
const HOLDS = 3_000;
/** Milliseconds after which we say again that we are writing. */
const AGAIN = 2_000;

/** Show both, and tell the others when something is written into a field. */
export function showCompany(room, { me, field }) {
  const here = document.querySelector("#here");
  const typing = document.querySelector("#typing");
  const writing = new Map(); // by user's id, the timer that ends it
  let told = -Infinity;

  room.presence.subscribe((users) => {
    const others = users.filter(({ id }) => id !== me).map(({ info }) => info.name);
    here.textContent = users.length ? `Here: ${[...others.sort(), "you"].join(", ")}` : "";
  });

  // What a whisper says is the sender's word, but whom it is from is the server's.
  room.on("typing", (data, { whisper, from }) => {
    if (!whisper || from === me) return;
    clearTimeout(writing.get(from));
    writing.set(from, setTimeout(() => stop(from), HOLDS));
    show();
  });
  room.on("message.created", (message) => stop(String(message.author_id)));

  field.addEventListener("input", () => {
    const now = performance.now();
    if (!field.value.trim() || now - told < AGAIN) return;
    told = now;
    room.whisper("typing");
  });
  field.form.addEventListener("submit", () => (told = -Infinity));

  function stop(id) {
    clearTimeout(writing.get(id));
    if (writing.delete(id)) show();
  }

  function show() {
    const users = room.presence.getSnapshot().filter(({ id }) => writing.has(id));
    const names = users.map(({ info }) => info.name).sort();
    const verb = names.length === 1 ? "is" : "are";
    typing.textContent = names.length ? `${names.join(", ")} ${verb} typing…` : "";
  }
}
