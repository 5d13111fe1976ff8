// The list of messages: the rows of a store as elements, changed where the rows change.

const list = document.querySelector("#messages");
// As wide as what the server printed, in UTC: nothing moves.
const times = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export function showMessages(store, { me, composer, tell, post, live }) {
  const shown = new Map(); // id -> { row, item }

  store.subscribe((rows) => {
    const ids = new Set(rows.map((row) => row.id));
    for (const [id, { item }] of shown) {
      if (ids.has(id)) continue;
      const focused = item.contains(document.activeElement);
      item.remove();
      shown.delete(id);
      // The keyboard's user must not be thrown back to the top of the page.
      if (focused) composer.elements.body.focus();
    }
    let place = list.firstElementChild;
    for (const row of rows) {
      let entry = shown.get(row.id);
      if (!entry) {
        // The server's own element, the first time; else a new one.
        const rendered = list.querySelector(`[data-id="${Number(row.id)}"]`);
        entry = { row: null, item: rendered ?? create(row) };
        shown.set(row.id, entry);
      }
      // A row is a new object when something in it has changed.
      if (entry.row !== row) fill(entry.item, (entry.row = row));
      if (entry.item === place) place = place.nextElementSibling;
      else list.insertBefore(entry.item, place);
    }
  });

  function create(row) {
    const template = document.querySelector("#message").content;
    const item = template.firstElementChild.cloneNode(true);
    item.dataset.id = row.id;
    item.querySelector(".body").id = `body-${row.id}`;
    item.querySelector(".avatar").dataset.hue = row.author_id % 6;
    item.querySelector(".avatar").textContent = row.author_name.slice(0, 1);
    item.querySelector(".author").textContent = row.author_name;
    item.classList.toggle("mine", row.author_id === me);
    if (row.author_id !== me) item.querySelector(".actions").remove();
    for (const element of item.querySelectorAll(".actions a, .actions button")) {
      element.setAttribute("aria-describedby", `body-${row.id}`);
    }
    for (const [selector, name] of [["a", "href"], [".delete", "action"]]) {
      const element = item.querySelector(`.actions ${selector}`);
      element?.setAttribute(name, element.getAttribute(name).replace("/0/", `/${row.id}/`));
    }
    return item;
  }

  function fill(item, row) {
    const created = new Date(row.created_at);
    const time = item.querySelector("time");
    time.dateTime = row.created_at;
    time.title = created.toLocaleString();
    time.textContent = times.format(created);
    item.querySelector(".body").textContent = row.body;
    item.querySelector(".edited").hidden = !row.edited_at;
  }

  list.addEventListener("click", (event) => {
    const link = event.target.closest("a.edit");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    edit(link.closest(".message"), link);
  });

  list.addEventListener("submit", async (event) => {
    const form = event.target.closest("form.delete");
    if (!form) return;
    event.preventDefault();
    if (!confirm("Delete this message for everybody?")) return;
    try {
      await post(form.action, new FormData(form));
      if (live.state === "off") location.reload(); // nobody will say so
      tell("Deleted."); // it goes when the room says so, as for everybody
    } catch (error) {
      tell(`Not deleted. ${error.message}`);
    }
  });

  function edit(item, link) {
    if (item.querySelector(".editor")) return;
    const template = document.querySelector("#editor").content;
    const form = template.firstElementChild.cloneNode(true);
    const field = form.elements.body;
    field.value = item.querySelector(".body").textContent;
    const close = () => {
      form.remove();
      item.classList.remove("editing");
      link.focus();
    };
    form.querySelector(".cancel").addEventListener("click", close);
    form.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") close();
      if (event.key === "Enter" && event.target === field && !event.shiftKey) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const response = await post(link.href, new FormData(form));
        store.merge(await response.json(), response);
        close();
        tell("Saved.");
      } catch (error) {
        tell(`Not saved. ${error.message}`);
      }
    });
    item.classList.add("editing");
    item.querySelector(".bubble").append(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
