// The browser's side of the chat. `LivePush` is what {{ livepush_script() }} has loaded.
// Data goes into the page as text alone (textContent), never as HTML.

import { showCompany } from "./company.js";
import { showConnection } from "./connection.js";
import { showEnd } from "./end.js";
import { showMessages } from "./messages.js";
import { showUnread } from "./unread.js";

const main = document.querySelector("main");
const notice = document.querySelector("#notice");
const composer = document.querySelector("#composer");
const { liveRoom, liveUser, me, roomId } = main.dataset;

const live = LivePush.connect();
const room = live.room(liveRoom);

// 1. The rows of the room, kept in step with the database. The page begins with those
//    that were rendered; what was committed since comes first of all.
const messages = room.store("message", {
  rows: JSON.parse(document.querySelector("#rows").textContent),
});
showMessages(messages, { me: Number(me), composer, tell, post });

// 2. What is unread in the other rooms: a room of this user alone.
const user = live.room(liveUser);
showUnread(user, messages, { roomId: Number(roomId), post });

// 3. How the connection is doing, and what was caught up with.
showConnection(live, messages, tell);

// 4. That the login has ended, or the right to read the room.
showEnd(live, room, user, composer);

// 5. Who else is here, and who is writing.
showCompany(room, { me, field: composer.elements.body });

// 6. Our own messages: shown as soon as the server has answered, and not once more when
//    they come back over the socket. The answer's Livepush-Position header tells.
composer.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = composer.elements.body;
  const text = field.value;
  if (!text.trim() || field.readOnly) return;
  const sending = new FormData(composer);
  field.value = "";
  try {
    const response = await post(composer.action, sending);
    messages.merge(await response.json(), response);
    tell("");
  } catch (error) {
    field.value = field.value ? `${text}\n${field.value}` : text;
    tell(`Not sent. ${error.message}`);
  }
  field.focus();
});

composer.elements.body.addEventListener("keydown", (event) => {
  // Enter also ends the composition of a Japanese or Chinese word: not then.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

/** Post a form and return the answer. Errors have a sentence for the user. */
async function post(url, data) {
  if (!data.has("csrf_token")) data.set("csrf_token", composer.elements.csrf_token.value);
  const headers = { Accept: "application/json" };
  const response = await fetch(url, { method: "POST", body: data, headers }).catch(() => {
    throw new Error("The server cannot be reached; try again in a moment.");
  });
  if (response.redirected) location.assign(response.url); // to the login
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error ?? "The server failed; try again in a moment.");
}

/** Say something below the composer; screen readers say it too. */
function tell(sentence) {
  notice.textContent = sentence;
}
