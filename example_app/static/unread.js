// The unread counts in the list of rooms. What comes are the ids of unread messages, so
// that nothing is counted twice and the order of the events does not matter.

const title = document.title;

export function showUnread(user, messages, { roomId, post }) {
  const rooms = new Map(); // room id -> the ids of its unread messages
  const read = new Map(); // room id -> the newest message that was read
  const unread = (id) => rooms.get(id) ?? rooms.set(id, new Set()).get(id);

  // A page of this user that was away for too long starts over from what the server
  // finds; one that was not gets the events it has missed.
  user.on("livepush.snapshot", ({ state }) => {
    rooms.clear();
    for (const [id, ids] of Object.entries(state)) rooms.set(Number(id), new Set(ids));
    show();
  });
  user.on("unread.added", ({ room_id, message_id }) => {
    if (message_id > (read.get(room_id) ?? 0)) unread(room_id).add(message_id);
    show();
  });
  user.on("unread.removed", ({ room_id, message_id }) => {
    unread(room_id).delete(message_id);
    show();
  });
  user.on("room.read", ({ room_id, up_to }) => {
    read.set(room_id, Math.max(up_to, read.get(room_id) ?? 0));
    for (const id of unread(room_id)) if (id <= up_to) unread(room_id).delete(id);
    show();
  });

  function show() {
    if (user.state === "off") return; // they stay as the server has printed them
    let all = 0;
    for (const element of document.querySelectorAll(".unread")) {
      const id = Number(element.dataset.room);
      // What is on the screen is being read.
      const count = id === roomId && !document.hidden ? 0 : unread(id).size;
      element.querySelector(".count").textContent = count < 100 ? count : "99+";
      element.hidden = count === 0;
      all += count;
    }
    document.title = all ? `(${all < 100 ? all : "99+"}) ${title}` : title;
  }

  // The other way round: what this page shows is read, as soon as somebody can see it.
  let told = messages.getSnapshot().at(-1)?.id ?? 0; // rendering the page told the server
  let waiting = null;
  const tell = () => {
    waiting = null;
    const newest = messages.getSnapshot().at(-1)?.id ?? 0;
    if (document.hidden || newest <= told) return;
    const data = new FormData();
    data.set("up_to", (told = newest));
    // Offline: the next message, or the next page, tells as well.
    post(`/rooms/${roomId}/read`, data).catch(() => {});
  };
  messages.subscribe(() => (waiting ??= setTimeout(tell, 300)));
  document.addEventListener("visibilitychange", () => {
    show();
    tell();
  });
}
