// Socket.IO on Node.js, as its documentation has it, with the routes of engine_site.py.
"use strict";

const http = require("node:http");
const { Server } = require("socket.io");

const now = () => Number(process.hrtime.bigint()) / 1e9;

function publish(query) {
  const count = Number(query.get("count") ?? 1);
  const gap = Number(query.get("gap") ?? 0) * 1000;
  const name = query.get("event") ?? "tick";
  const pad = "x".repeat(Number(query.get("pad") ?? 100));
  const step = (i) => {
    if (i === count) return;
    io.to("bench").emit(name, { t: now(), i, pad });
    if (gap > 0) setTimeout(step, gap, i + 1);
    else setImmediate(step, i + 1);
  };
  setImmediate(step, 0);
}

function burn(query) {
  const end = now() + Number(query.get("seconds"));
  while (now() < end);
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/publish") publish(url.searchParams);
  else if (url.pathname === "/burn") burn(url.searchParams);
  else response.statusCode = 404;
  response.end();
});

const io = new Server(server);
io.on("connection", (socket) => {
  socket.on("livepush.subscribe", (message, answer) => {
    socket.join(message.room);
    answer({ ok: true });
  });
});

// It ends with its stdin, as the benchmark's other servers do.
process.stdin.on("end", () => process.exit(1)).resume();
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(`LISTENING ${server.address().port}`);
});
