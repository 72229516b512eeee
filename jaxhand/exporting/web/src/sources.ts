/** Pictures from files and from the camera, as pixels. */

import type { Picture } from "./crop";
import { focalLength } from "./exif";
import { centralCamera, type Matrix } from "./geometry";
import type { Result } from "./results";

/** A canvas that holds a picture at its own size, from which pixels are read. */
export class Frame {
  readonly canvas = document.createElement("canvas");
  private readonly context = this.canvas.getContext("2d", { willReadFrequently: true, alpha: false })!;

  /** Take over an image or a video's current frame, and return its pixels. */
  take(source: CanvasImageSource, width: number, height: number): Picture {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
    }
    this.context.drawImage(source, 0, 0);
    return this.context.getImageData(0, 0, width, height);
  }

  /** Decode an image file, upright by its EXIF data, without any change of colours. */
  async decode(file: Blob): Promise<Picture> {
    const image = await createImageBitmap(file, { colorSpaceConversion: "none" });
    try {
      return this.take(image, image.width, image.height);
    } finally {
      image.close();
    }
  }
}

/** The camera of a picture: with the given focal length, or that of its file's EXIF data, or a guess. */
export function cameraOf(
  { width, height }: Picture,
  given: number | null,
  file: ArrayBuffer | null,
  guess: number,
): { K: Matrix; focalFrom: Result["focalFrom"] } {
  const exif = given === null && file ? focalLength(file, width, height) : null;
  const focal = given ?? exif ?? guess * Math.max(width, height);
  const focalFrom = given !== null ? "given" : exif !== null ? "EXIF" : "guess";
  return { K: centralCamera(focal, width, height), focalFrom };
}

/** Start the camera of a phone or computer. */
export async function openCamera(video: HTMLVideoElement, facing: string): Promise<void> {
  if (!navigator.mediaDevices) {
    throw new Error("the browser gives a camera only to pages from https, from localhost, or from a file");
  }
  const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, ...size } });
  await video.play();
}

/** Start a video file; it starts again at its end. */
export async function openVideo(video: HTMLVideoElement, file: Blob): Promise<void> {
  video.src = URL.createObjectURL(file);
  video.loop = true;
  await video.play();
}

/** Stop a camera or a video file. */
export function close(video: HTMLVideoElement): void {
  video.pause();
  if (video.srcObject) (video.srcObject as MediaStream).getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
}

/** Wait for the next frame of a video. */
export function nextFrame(video: HTMLVideoElement): Promise<void> {
  return new Promise((resolve) => {
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(() => resolve());
    else requestAnimationFrame(() => resolve());
  });
}
