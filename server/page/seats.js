/** All seats at a glance: who is written, how long it is, and how many nodes its last step had. */

import { byId, element } from "./dom.js";

const IDLE_MS = 1500;
const BUSY_MS = 300;

/** Asks for them for as long as the page can be seen. */
export class Seats {
  #server;
  #list = byId("seats");
  #summary = byId("seats-summary");
  #isHurried = false;
  #wake = () => {};

  constructor(server) {
    this.#server = server;
  }

  async watch() {
    for (;;) {
      const isBusy = document.visibilityState === "visible" && (await this.#look());
      await new Promise((done) => {
        this.#wake = done;
        setTimeout(done, isBusy || this.#isHurried ? BUSY_MS : IDLE_MS);
      });
    }
  }

  /** Look more often while something of ours is being written. */
  set isHurried(isHurried) {
    this.#isHurried = isHurried;
    this.#wake();
  }

  /** Whether anybody is written. */
  async #look() {
    try {
      const seats = await this.#server.ask("slots");
      this.#show(seats);
      return seats.some((seat) => seat.is_processing);
    } catch {
      this.#summary.textContent = "the server does not answer";
      return false;
    }
  }

  #show(seats) {
    const num = seats.filter((seat) => seat.is_processing).length;
    this.#summary.textContent = `${num} of ${seats.length} seats taken`;
    while (this.#list.children.length > seats.length) this.#list.lastChild.remove();
    while (this.#list.children.length < seats.length) this.#list.append(element("li"));
    for (const [place, seat] of seats.entries()) {
      const item = this.#list.children[place];
      const is = seat.is_processing ? `${seat.num_tokens} tokens, ${seat.num_nodes} nodes in its last step` : "free";
      item.dataset.busy = seat.is_processing;
      item.textContent = seat.is_processing ? seat.num_nodes : "·";
      item.title = item.ariaLabel = `Seat ${place + 1}: ${is}`;
    }
  }
}
