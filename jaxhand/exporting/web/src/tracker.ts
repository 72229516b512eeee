/** Hands over the frames of a video: each is followed from frame to frame; palms are searched only for new hands. */

import type { Picture } from "./crop";
import { apart, findPalms, look, placed, same, type Hand, type Reading } from "./finder";
import { boxAround, ofJoints, ofPalm, type Matrix, type Point } from "./geometry";
import type { Networks } from "./networks";

const SEARCH_EVERY = 8; // frames, while at least one hand is followed
const SIDE_MEMORY = 0.9; // weight of the earlier frames for left or right

export class Tracker {
  private readings: Reading[] = [];
  private sinceSearch = 0;

  /** The hands of the next frame, at most `most`. */
  async next(networks: Networks, picture: Picture, K: Matrix, most: number): Promise<Hand[]> {
    const followed: Reading[] = [];
    for (const earlier of this.readings) {
      const reading = await look(networks, picture, ofJoints(earlier.pixels), 1);
      if (reading) {
        const right = SIDE_MEMORY * earlier.right + (1 - SIDE_MEMORY) * reading.right;
        followed.push({ ...reading, right });
      }
    }
    let readings = apart(followed).slice(0, most);
    this.sinceSearch++;
    if (readings.length < most && (!readings.length || this.sinceSearch >= SEARCH_EVERY)) {
      this.sinceSearch = 0;
      readings = await this.search(networks, picture, readings, most);
    }
    this.readings = readings;
    return Promise.all(readings.map((reading) => placed(networks, picture, K, reading)));
  }

  private async search(networks: Networks, picture: Picture, known: Reading[], most: number): Promise<Reading[]> {
    const readings = [...known];
    for (const palm of await findPalms(networks, picture)) {
      if (readings.length >= most) break;
      if (readings.some((other) => inside(palm, other))) continue;
      const reading = await look(networks, picture, ofPalm(palm), 1);
      if (reading && !readings.some((other) => same(other, reading))) readings.push(reading);
    }
    return readings;
  }
}

/** Whether a palm lies in a known hand. */
function inside([[x0, y0], [x1, y1]]: Point[], hand: Reading): boolean {
  const [left, top, right, bottom] = boxAround(hand.pixels);
  const [x, y] = [(x0 + x1) / 2, (y0 + y1) / 2];
  return left < x && x < right && top < y && y < bottom;
}
