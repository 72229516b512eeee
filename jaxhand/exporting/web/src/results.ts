/** What the page writes: joints.json with the keys of `jaxhand predict`, and the rows of the table. */

import type { Hand } from "./finder";
import type { Matrix, Point3 } from "./geometry";
import type { Settings } from "./settings";

/** The hands of a photograph or of a frame. */
export interface Result {
  image: string; // name of the file; of a video with the time: clip.mp4#t=1.25
  K: Matrix;
  focalFrom: "given" | "EXIF" | "guess";
  hands: Hand[];
}

/** The name of the picture with skeletons, as `jaxhand predict` names it. */
export function overlayName(image: string): string {
  return `${image.replace(/#.*$/, "").replace(/\.[^.]*$/, "")}_joints.png`;
}

/** The text of joints.json. */
export function toJson(results: Result[], settings: Settings): string {
  const hands = results.flatMap(({ image, K, hands }) =>
    hands.map((hand) => ({
      image,
      hand: hand.right ? "right" : "left",
      score: hand.score,
      overlay: overlayName(image),
      bbox: rounded(hand.box, 3),
      K: K.map((row) => rounded(row, 6)),
      joints_2d: hand.joints2d.map((joint) => rounded(joint, 2)),
      joints_3d: hand.joints3d.map((joint) => rounded(joint, 2)),
    })),
  );
  return `${JSON.stringify({ joint_names: settings.joint_names, units: settings.units, hands }, null, 1)}\n`;
}

/** The table's row of a hand: side, score, and lengths in mm. */
export function tableRow({ right, score, joints3d }: Hand, settings: Settings): string[] {
  const gap = (a: number, b: number) => distance(joints3d[a], joints3d[b]);
  let length = 0; // wrist to tip of the middle finger, along the bones
  for (let joint = 12; joint > 0; joint = settings.parents[joint]) length += gap(joint, settings.parents[joint]);
  const lengths = [joints3d[0][2], length, gap(5, 17), gap(4, 8)];
  return [right ? "right" : "left", `${Math.round(100 * score)} %`, ...lengths.map((mm) => mm.toFixed(0))];
}

function distance(a: Point3, b: Point3): number {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

function rounded(values: number[], decimals: number): number[] {
  return values.map((value) => Number(value.toFixed(decimals)));
}
