/** The picture with the skeletons of its hands. */

import type { Hand } from "./finder";
import type { Settings } from "./settings";

const MOST_PIXELS = 1280; // longer side of the drawing; larger pictures are reduced
const LEAST_PIXELS = 512; // smaller ones are enlarged

/** Draw a picture and its hands. Text stays readable in a mirrored picture. */
export function drawOverlay(
  canvas: HTMLCanvasElement,
  source: HTMLCanvasElement,
  hands: Hand[],
  settings: Settings,
  mirrored: boolean,
): void {
  const { width, height } = source;
  const longer = Math.max(width, height);
  const scale = longer > MOST_PIXELS ? MOST_PIXELS / longer : Math.max(1, Math.floor(LEAST_PIXELS / longer));
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d")!;
  context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? w : 0, 0);
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(source, 0, 0, w, h);
  const thick = Math.max(2, Math.max(w, h) / 220);
  for (const hand of hands) {
    const at = hand.joints2d.map(([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale]);
    context.lineWidth = thick;
    context.lineCap = "round";
    settings.parents.forEach((parent, joint) => {
      if (parent < 0) return;
      context.strokeStyle = colorOf(joint, settings);
      context.beginPath();
      context.moveTo(at[parent][0], at[parent][1]);
      context.lineTo(at[joint][0], at[joint][1]);
      context.stroke();
    });
    at.forEach(([x, y], joint) => {
      context.fillStyle = colorOf(joint, settings);
      context.beginPath();
      context.arc(x, y, 1.1 * thick, 0, 2 * Math.PI);
      context.fill();
    });
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.font = `600 ${Math.max(13, Math.round(6 * thick))}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.lineWidth = 4;
  hands.forEach((hand, number) => {
    const [x, y] = hand.joints2d[0];
    const label = `${number + 1} ${hand.right ? "right" : "left"}`;
    const below = Math.min((y + 0.5) * scale + 8 * thick, h - 2 * thick);
    const place: [number, number] = [(mirrored ? width - 1 - x : x) * scale, below];
    context.strokeStyle = "#000c";
    context.strokeText(label, ...place);
    context.fillStyle = "#fff";
    context.fillText(label, ...place);
  });
}

/** The colour of a joint and of the bone that ends at it: one per finger. */
export function colorOf(joint: number, settings: Settings): string {
  return settings.colors[joint === 0 ? 0 : 1 + Math.floor((joint - 1) / 4)];
}
