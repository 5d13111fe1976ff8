// What ends for good: the login, or the right to read this room. Nothing comes back by
// itself then, and what was to be read with it goes from the screen.

const end = document.querySelector("#end");
const scroller = document.querySelector(".scroller");
const others = document.querySelectorAll("#badge, #cut, #here");

export function showEnd(live, room, user, composer) {
  live.onRefused(({ code }) => {
    if (code === 103) show("signed-out");
  });
  // The page was away while somebody else logged in here: the connection is theirs now.
  user.onRefused(() => {
    live.disconnect();
    show("signed-out");
  });
  room.onRefused(() => show("put-out"));

  function show(id) {
    if (end.dataset.shows === "signed-out") return;
    end.dataset.shows = id;
    // It was there, and empty, all the time: so screen readers say what comes into it.
    end.replaceChildren(document.getElementById(id).content.cloneNode(true));
    for (const element of [scroller, ...others]) element.hidden = true;
    // What was written may still be copied.
    composer.elements.body.readOnly = true;
    composer.querySelector("button").disabled = true;
  }
}
