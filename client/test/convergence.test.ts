/** Random histories with every fault the protocol knows: the page ends as the database. */

import { expect, test } from "vitest";
import { FakePage } from "./fake_surroundings.js";
import { ModelServer, rowsOf, seeded, stateOf, type ModelRow } from "./model_server.js";
import { Setting } from "./setting.js";

const SEEDS = 400;
const STEPS = 150;

class Run {
  readonly setting: Setting;
  readonly server: ModelServer;
  readonly random: () => number;
  readonly broken: string[] = [];
  readonly room;
  readonly messages;
  readonly tasks;
  private readonly page = new FakePage();
  private later: (() => void)[] = [];

  constructor(
    seed: number,
    private readonly bulk: boolean,
    private readonly merging: boolean,
  ) {
    this.random = seeded(seed);
    this.setting = new Setting({ page: this.page });
    this.server = new ModelServer(this.setting.sockets, this.random, this.random());
    this.room = this.setting.live.room("chat:1", { since: null });
    this.messages = this.room.store<ModelRow>("message");
    this.tasks = this.room.store<ModelRow>("task");
    this.checkOrder();
    // Both may show rows before, or without, the commits around them.
    if (!bulk && !merging) this.checkCommits();
    this.setting.live.connect();
  }

  /** Publications come in order and without gaps, from each snapshot's position on. */
  private checkOrder(): void {
    let expected = "";
    this.room.on("livepush.snapshot", (_content, { epoch, offset }) => {
      expected = `${epoch}:${offset + 1}`;
    });
    for (const kind of ["message", "task"]) {
      for (const verb of ["created", "updated", "deleted", "invalidated"]) {
        this.room.on(`${kind}.${verb}`, (_data, { epoch, offset }) => {
          if (`${epoch}:${offset}` !== expected) this.broken.push(`${epoch}:${offset} ${expected}`);
          expected = `${epoch}:${offset + 1}`;
        });
      }
    }
  }

  /** What subscribers are told was committed just so, in both tables. */
  private checkCommits(): void {
    const check = (): void => {
      const state = stateOf(this.messages.getSnapshot(), this.tasks.getSnapshot());
      if (!this.server.committed.has(state)) this.broken.push(`never committed: ${state}`);
    };
    this.messages.subscribe(check);
    this.tasks.subscribe(check);
  }

  step(): void {
    const { server, setting } = this;
    const draw = this.random();
    if (draw < 0.45) this.commit();
    else if (draw < 0.6) server.answer();
    else if (draw < 0.7) setting.surroundings.pass(this.random() * 4_000);
    else if (draw < 0.72 && this.bulk) server.bulk();
    else if (draw < 0.76) server.repeat(this.room.position?.offset ?? 0);
    else if (draw < 0.78 * server.trouble) server.loseHistory();
    else if (draw < 0.8) server.resetClient();
    else if (draw < 0.81) this.page.fire("offline");
    else if (draw < 0.82) server.sendAway();
    else if (draw < 0.84) this.putAwayAndBack();
    else if (draw < 0.88) this.cut();
    else if (draw < 0.94) this.accept();
    else this.later.shift()?.();
  }

  /** The faults end; enough time passes for the client to notice what it missed. */
  finish(): void {
    const { server, setting } = this;
    server.trouble = 0;
    for (const answer of this.later) answer();
    for (let round = 0; round < 12; round++) {
      this.accept();
      server.commit();
      for (let turn = 0; turn < 10; turn++) {
        setting.surroundings.pass(1_000);
        this.accept();
        while (server.asked) server.answer();
      }
    }
  }

  private commit(): void {
    const { rows, header } = this.server.commit();
    if (!this.merging || this.random() < 0.5) return;
    // The page's own request: its answer overtakes the echo, or comes much later.
    // Its rows look different: what stays of them at the end is seen.
    const mine = rows.map((row) => ({ ...row, mine: true }));
    const answer = (): void => this.messages.merge(mine, header);
    if (this.random() < 0.5) answer();
    else this.later.push(answer);
  }

  private putAwayAndBack(): void {
    this.page.fire("pagehide");
    this.page.fire("pageshow");
  }

  private cut(): void {
    const up = this.setting.sockets.filter(({ connected }) => connected);
    up[Math.floor(this.random() * up.length)]?.cut();
  }

  private accept(): void {
    const waiting = this.setting.sockets.filter(({ connected, active }) => active && !connected);
    const transport = this.random() < 0.1 ? "polling" : undefined;
    waiting[Math.floor(this.random() * waiting.length)]?.accept(transport);
    this.setting.surroundings.settle();
  }
}

test.each([
  ["single commits", false, false],
  ["with bulk changes that only say that copies are stale", true, false],
  ["with answers to the page's own requests", true, true],
])("%s", (_what, bulk, merging) => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const run = new Run(seed, bulk, merging);
    for (let step = 0; step < STEPS; step++) run.step();
    run.finish();
    const { tables, epoch, offset } = run.server;
    expect(run.broken, `seed ${seed}`).toEqual([]);
    expect(run.messages.getSnapshot(), `seed ${seed}`).toEqual(rowsOf(tables.message));
    expect(run.tasks.getSnapshot(), `seed ${seed}`).toEqual(rowsOf(tables.task));
    expect(run.room.state, `seed ${seed}`).toBe("live");
    expect(run.room.position, `seed ${seed}`).toEqual({ epoch, offset });
    expect(run.setting.surroundings.reported).toEqual([]);
  }
});
