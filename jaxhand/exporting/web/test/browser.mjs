// Opens the page in headless Chromium, as a person would use it, and prints what happened as JSON.
//   node browser.mjs '{"chromium": PATH, "url": URL, "photographs": [PATH…]}'
// Also read: "camera" (a .y4m file that the browser takes for its camera), "frames" (how many of it), "repeats" (how
// often each photograph is opened on its own, for timings), "views" ([{path, width, height, dark}…], screenshots).
import fs from "node:fs";
import { chromium } from "playwright-core";

const job = { photographs: [], repeats: 0, frames: 5, views: [], ...JSON.parse(process.argv[2]) };
const args = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"];
if (job.camera) {
  args.push("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream");
  args.push(`--use-file-for-fake-video-capture=${job.camera}`);
}
if (job.url.includes("device=webgpu")) args.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");
const browser = await chromium.launch({ executablePath: job.chromium, headless: true, args });
const found = { requests: [], errors: [], ms: [], joints: null, camera: null };
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, acceptDownloads: true });
  page.setDefaultTimeout(120_000);
  page.on("request", (request) => found.requests.push(request.url().slice(0, 200)));
  page.on("console", (message) => message.type() === "error" && found.errors.push(message.text()));
  page.on("pageerror", (error) => found.errors.push(error.message));

  const state = async (wanted) => {
    await page.waitForFunction((wanted) => [wanted, "error"].includes(document.body.dataset.state), wanted);
    if (wanted !== (await page.getAttribute("body", "data-state"))) throw new Error(await page.textContent("#status"));
  };
  const downloaded = async () => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save-json")]);
    return JSON.parse(fs.readFileSync(await download.path(), "utf8"));
  };
  const open = async (paths) => {
    await page.setInputFiles("#files", paths);
    await state("done");
    return Number(await page.getAttribute("body", "data-ms"));
  };

  const begun = performance.now();
  await page.goto(job.url);
  await state("ready");
  found.readyMs = performance.now() - begun;
  if (job.photographs.length) {
    await open(job.photographs.slice(0, 1));
    found.firstResultMs = performance.now() - begun;
    await open(job.photographs);
    found.joints = await downloaded();
  }
  for (let repeat = 0; repeat < job.repeats; repeat++) {
    for (const photograph of job.photographs) found.ms.push(await open([photograph]));
  }
  for (const { path, width, height, dark } of job.views) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    await page.waitForTimeout(400);
    await page.screenshot({ path, fullPage: true });
  }
  if (job.camera) {
    await page.click("#camera");
    await page.waitForFunction(
      (frames) => document.body.dataset.state === "error" || Number(document.body.dataset.frames) >= frames,
      job.frames,
    );
    found.camera = await downloaded();
    found.cameraMs = Number(await page.getAttribute("body", "data-ms"));
    found.rate = await page.textContent("#name");
  }
  found.status = await page.textContent("#status");
} catch (error) {
  found.errors.push(String(error));
} finally {
  await browser.close();
}
console.log(JSON.stringify(found));
