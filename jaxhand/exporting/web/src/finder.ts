/**
 * From a picture to its hands: palms → turned crops → joints → a second look, then the run's own network, if it has one.
 *
 * The steps and constants are those of jaxhand/inference/mediapipe_pipeline.py and jaxhand/inference/predictor.py.
 */

import { cut, type Picture } from "./crop";
import * as geometry from "./geometry";
import type { Box, Matrix, Point, Point3, Roi } from "./geometry";
import type { Networks } from "./networks";

export const PALM_SIDE = 192; // px, sides of the crops
export const HAND_SIDE = 224;
const LEAST_PALM = 0.5; // score of a palm that is looked at
const FURTHER = 1.3; // a picture without palms is looked at once more, this much smaller
const LEAST_PRESENCE = 0.5; // of a hand in the crop
const SAME_HAND = 0.5; // intersection over union of the boxes of two hands above which they are one
const MOST_OVERLAP = 0.3; // of the boxes of two palms
const LOOKS = 2; // how often each hand of a photograph is looked at

/** One hand of a picture. */
export interface Hand {
  joints2d: Point[]; // 21, px of the picture
  joints3d: Point3[]; // 21, mm, camera frame
  right: boolean;
  score: number; // how likely there is a hand, 0 to 1
  box: Box;
  vertices?: Point3[]; // mm, camera frame, of networks with a mesh
}

/** What the landmark network returns for one crop. */
export interface Reading {
  pixels: Point[]; // of the picture
  world: Point3[]; // mm around the hand's middle
  score: number;
  right: number; // how likely it is a right hand
}

/** Find all hands of a photograph. The same numbers as `jaxhand predict` writes. */
export async function findHands(networks: Networks, picture: Picture, K: Matrix): Promise<Hand[]> {
  const found: Reading[] = [];
  for (const palm of await findPalms(networks, picture)) {
    const reading = await look(networks, picture, geometry.ofPalm(palm), LOOKS);
    if (reading) found.push(reading);
  }
  return Promise.all(apart(found).map((reading) => placed(networks, picture, K, reading)));
}

/** The palms of a picture: nine points px each, two corners of the box and seven points; the most certain first. */
export async function findPalms(networks: Networks, picture: Picture): Promise<Point[][]> {
  const roi = geometry.whole(picture.width, picture.height);
  const found = await palmsIn(networks, picture, roi);
  return found.length ? found : palmsIn(networks, picture, { ...roi, side: FURTHER * roi.side });
}

async function palmsIn(networks: Networks, picture: Picture, roi: Roi): Promise<Point[][]> {
  const crop = geometry.cropOfRoi(roi, PALM_SIDE);
  const { points, scores } = await networks.palm(cut(picture, crop));
  const toPicture = geometry.inverse(crop.A);
  return suppress(points, scores).map((palm) => geometry.transform(toPicture, palm));
}

/** Weighted non-maximum suppression: overlapping candidates are averaged to one palm. */
export function suppress(points: Point[][], scores: ArrayLike<number>): Point[][] {
  let rest = points.map((_, i) => i).filter((i) => scores[i] >= LEAST_PALM);
  rest.sort((i, j) => scores[j] - scores[i]);
  const boxes = points.map(([[x0, y0], [x1, y1]]): Box => [x0, y0, x1, y1]);
  const palms: Point[][] = [];
  while (rest.length) {
    const best = rest[0];
    const same = rest.filter((i) => i === best || geometry.overlap(boxes[best], boxes[i]) > MOST_OVERLAP);
    const total = same.reduce((sum, i) => sum + scores[i], 0);
    const average = (point: number, axis: number) =>
      same.reduce((sum, i) => sum + (scores[i] * points[i][point][axis]) / total, 0);
    palms.push(points[best].map((_, point) => [average(point, 0), average(point, 1)]));
    rest = rest.filter((i) => !same.includes(i));
  }
  return palms;
}

/** The hand in a square, the mean of several looks; null where a look does not find one. */
export async function look(networks: Networks, picture: Picture, roi: Roi, looks: number): Promise<Reading | null> {
  const readings: Reading[] = [];
  for (let square = roi; readings.length < looks; square = geometry.ofJoints(readings.at(-1)!.pixels)) {
    const reading = await read(networks, picture, square);
    if (reading.score < LEAST_PRESENCE) return null;
    readings.push(reading);
  }
  const pixels = geometry.mean(readings.map((reading) => reading.pixels));
  const world = geometry.mean(readings.map((reading) => reading.world));
  return { ...readings.at(-1)!, pixels, world };
}

async function read(networks: Networks, picture: Picture, roi: Roi): Promise<Reading> {
  const crop = geometry.cropOfRoi(roi, HAND_SIDE);
  const { pixels, world, presence, right } = await networks.hand(cut(picture, crop));
  return {
    pixels: geometry.transform(geometry.inverse(crop.A), pixels),
    world: geometry.turnBack(world, roi),
    score: presence,
    right,
  };
}

/** The most certain hands first; those that overlap a more certain one are left out. */
export function apart(readings: Reading[]): Reading[] {
  const kept: Reading[] = [];
  for (const reading of [...readings].sort((a, b) => b.score - a.score)) {
    const box = geometry.boxAround(reading.pixels);
    if (kept.every((other) => geometry.overlap(box, geometry.boxAround(other.pixels)) <= SAME_HAND)) kept.push(reading);
  }
  return kept;
}

/** Whether two readings are of the same hand. */
export function same(a: Reading, b: Reading): boolean {
  return geometry.overlap(geometry.boxAround(a.pixels), geometry.boxAround(b.pixels)) > SAME_HAND;
}

/** A reading as a hand before the camera K; the joints are those of the run's own network, if it has one. */
export async function placed(networks: Networks, picture: Picture, K: Matrix, reading: Reading): Promise<Hand> {
  const { pixels, world, score } = reading;
  const [right, box] = [reading.right > 0.5, geometry.boxAround(pixels)];
  if (!networks.own) {
    return { joints2d: pixels, joints3d: geometry.placeOnRays(world, pixels, K), right, score, box };
  }
  const crop = geometry.cropOfBox(box, right, picture.width, networks.own.rule);
  const found = await networks.own.predict(cut(picture, crop), geometry.cropCamera(crop, K, picture.width));
  const mirror = (points: Point3[]) => (crop.mirrored ? points.map(([x, y, z]): Point3 => [-x, y, z]) : points);
  const toPicture = geometry.inverse(geometry.pictureToCrop(crop, picture.width));
  return {
    joints2d: geometry.transform(toPicture, found.pixels),
    joints3d: mirror(found.joints),
    right,
    score,
    box,
    vertices: found.vertices && mirror(found.vertices),
  };
}
