#include "download/download.h"

int main(int argc, char **argv)
{
    return rh_stage_main(&rh_download_stage, argc, argv);
}
